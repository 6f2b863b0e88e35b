"""Whose a place on a volume is: the first claims it, others are told, and nobody's objects are touched."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from backupd.volumes import ownership
from backupd.volumes.failures import BucketMissing
from backupd.volumes.memory import MemoryVolume
from backupd.volumes.owned import BELIEVED_SECONDS, OwnedVolume
from backupd.volumes.ownership import PlaceRefused
from backupd.volumes.prefixed import Prefixed
from tests.world.clocks import FakeClock

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = datetime(2026, 12, 24, 12, tzinfo=UTC)


def test_claimed_once():
    """The first claim holds, and stays as it was when it is made again."""
    volume = MemoryVolume()
    assert ownership.owner(volume) is None
    mine = ownership.claim(volume, "server-1", NOW)
    assert (mine.server_id, mine.since, mine.format) == ("server-1", "2026-11-24T12:00:00.000000Z", 1)
    assert ownership.claim(volume, "server-1", LATER) == mine == ownership.require(volume, "server-1")


def test_the_marker_is_for_people_too():
    """The marker is JSON with the words that docs/formats.md names."""
    volume = MemoryVolume()
    ownership.claim(volume, "server-1", NOW)
    assert msgspec.json.decode(volume.get("backupd-volume.json").read()) == {
        "server-id": "server-1",
        "since": "2026-11-24T12:00:00.000000Z",
        "format": 1,
    }


def test_another_server_is_refused():
    """A place of another server is refused with its name, to claim or to use; a prefix of its own is not."""
    volume = MemoryVolume()
    ownership.claim(Prefixed(volume, "srv1"), "server-1", NOW)
    for ask in (
        lambda: ownership.claim(Prefixed(volume, "srv1"), "server-2", NOW),
        lambda: ownership.require(Prefixed(volume, "srv1"), "server-2"),
    ):
        with pytest.raises(PlaceRefused, match="belongs to the server server-1") as told:
            ask()
        assert told.value.permanent
        assert told.value.hint
    assert ownership.claim(Prefixed(volume, "srv2"), "server-2", NOW).server_id == "server-2"


def test_a_place_with_objects_of_somebody():
    """A place with objects and no owner is not claimed: they are somebody's."""
    volume = MemoryVolume()
    volume.put("photos/1", b"x")
    with pytest.raises(PlaceRefused, match="no owner"):
        ownership.claim(volume, "server-1", NOW)
    assert list(volume.names()) == ["photos/1"]


def test_no_owner_is_not_ours():
    """A place that lost its marker, or was never claimed, is not used as if it were ours."""
    with pytest.raises(PlaceRefused, match="no owner"):
        ownership.require(MemoryVolume(), "server-1")


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b'{"since": "x"}', b'{"server-id": "server-1", "since": "", "format": 2}']
)
def test_markers_that_say_nothing(content):
    """A marker that can't be understood, or is of a newer layout, refuses the place even to its owner."""
    volume = MemoryVolume()
    volume.put(ownership.NAME, content)
    for ask in (ownership.require, lambda place, server: ownership.claim(place, server, NOW)):
        with pytest.raises(PlaceRefused):
            ask(volume, "server-1")


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_bucket_made_anew_is_not_ours(is_noticed):
    """Nothing is put where nobody's name stands any more: at once where the bucket was missed, else soon."""
    clock = FakeClock()
    bucket = MemoryVolume()
    ownership.claim(bucket, "server-1", NOW)
    volume = OwnedVolume(bucket, "server-1", monotonic=clock.monotonic)
    volume.put("items/1", b"x")
    put = bucket.put

    def missing(_name, _content):
        raise BucketMissing("backups")

    if is_noticed:
        bucket.put = missing
        with pytest.raises(BucketMissing):
            volume.put("items/2", b"x")
        bucket.put = put
    else:
        clock.tick(BELIEVED_SECONDS)
    for name in list(bucket.names()):
        bucket.delete(name)
    with pytest.raises(PlaceRefused, match="no owner") as told:
        volume.put("items/3", b"x")
    assert "setBackupVolume" in told.value.hint
    assert not list(bucket.names())
    ownership.claim(bucket, "server-1", LATER)
    assert volume.put("items/3", b"x")
