"""Calls of a volume: every one is passed on and counted, also one that fails."""

from __future__ import annotations

import pytest

from backupd.volumes.base import NameMissing
from backupd.volumes.calls import CALLS, CountingVolume
from backupd.volumes.memory import MemoryVolume


def test_calls_are_passed_on_and_counted():
    """Each method does what the volume behind does, and adds one to its count."""
    inner = MemoryVolume()
    volume = CountingVolume(inner)
    assert volume.put("a", b"hello")
    assert volume.get("a", offset=1, length=2).read() == b"el"
    assert volume.exists("a")
    assert volume.size("a") == 5
    assert list(volume.names("a")) == ["a"]
    assert volume.delete("a")
    with pytest.raises(NameMissing):
        volume.get("a")
    assert volume.calls == dict.fromkeys(CALLS, 1) | {"get": 2}
