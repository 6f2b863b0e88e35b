"""The condition of the external volume: which facts are problems, and that each says what to do."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from backupd.volume_views import MetadataView, VolumeView
from daemon import volume_condition
from daemon.volume_condition import volume_problems
from tests.world.clocks import START

WELL = VolumeView(
    title="bucket",
    waiting_objects=3,
    waiting_bytes=99,
    cache_bytes_max=1 << 30,
    oldest=START - timedelta(minutes=1),
)
HOUR_AGO = START - timedelta(hours=1)
AWAY = {"error": "no route", "reachable": False}


def test_all_well_is_no_problem():
    """A little waits, and a store that was away for a moment is nobody's business."""
    assert volume_problems(WELL, START) == []
    late = MetadataView(error="403", failing_since=START - timedelta(minutes=9))
    assert volume_problems(msgspec.structs.replace(WELL, metadata=late), START) == []
    moment = msgspec.structs.replace(WELL, **AWAY, failing_since=START - timedelta(seconds=30))
    assert volume_problems(moment, START) == []


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        (AWAY | {"failing_since": START - timedelta(minutes=2)}, volume_condition.UNREACHABLE, "no route"),
        (AWAY | {"failing_since": START, "permanent": True}, volume_condition.UNREACHABLE, "refuses"),
        ({"oldest": HOUR_AGO}, volume_condition.BEHIND, "3 blobs wait"),
        ({"oldest": HOUR_AGO, "remaining_seconds": 7200.0}, volume_condition.BEHIND, "2.0 h"),
        ({"waiting_bytes": 2 << 30}, volume_condition.BEHIND, "more than the 1,024 MB"),
        ({"damaged_objects": 2, "damage": "items/x"}, volume_condition.NOT_SENT, "items/x"),
        ({"rebuilding": "being built"}, volume_condition.REBUILDING, "being built"),
        ({"metadata": MetadataView(error="403", failing_since=HOUR_AGO)}, volume_condition.METADATA, "403"),
        ({"metadata": MetadataView(waiting_since=HOUR_AGO)}, volume_condition.METADATA, "does not answer"),
        ({"error": "disk full"}, volume_condition.BEHIND, "queue can't be kept: disk full"),
    ],
)  # fmt: skip
def test_each_trouble_is_one_sentence_with_what_to_do(changed, name, words):
    """One changed fact makes one problem, with its words."""
    (problem,) = volume_problems(msgspec.structs.replace(WELL, **changed), START)
    assert problem.name == name
    assert words in problem.message
    assert problem.hint
