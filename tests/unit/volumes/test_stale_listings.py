"""A store whose listings lag behind: what was put a moment ago is there to read, and not yet listed."""

from __future__ import annotations

from collections.abc import Iterator

from backupd.volumes.encrypting import EncryptingVolume
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.memory import MemoryVolume

OLD, NEW = MasterKey(b"o" * 32), MasterKey(b"n" * 32)


class Lagging(MemoryVolume):
    """A store that lists nothing for a while."""

    lags = True

    def names(self, prefix: str = "") -> Iterator[str]:
        return iter(()) if self.lags else super().names(prefix)


def test_a_new_master_key_finds_the_key_of_the_names() -> None:
    """A volume that looks empty is not taken for a new one: its names would be encrypted under two keys."""
    store = Lagging()
    EncryptingVolume(store, Keyring([OLD])).put("items/aa/first", b"first")
    rotated = EncryptingVolume(store, Keyring([NEW, OLD]))
    assert rotated.get("items/aa/first").read() == b"first"
    rotated.put("items/aa/second", b"second")
    store.lags = False
    for keys in ([NEW, OLD], [OLD, NEW]):
        volume = EncryptingVolume(store, Keyring(keys))
        assert list(volume.names()) == ["items/aa/first", "items/aa/second"]
        assert volume.get("items/aa/second").read() == b"second"
