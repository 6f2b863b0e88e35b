"""Stores whose listings lag behind what is there, or lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from backupd.errors import VolumeError
from backupd.secret import Secret
from backupd.volumes.encrypting import EncryptingVolume
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.memory import MemoryVolume
from backupd.volumes.s3 import S3Volume
from backupd.volumes.s3_settings import S3Settings

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


class Circling:
    """What asks a store that says there is more, and how to go on: always the same, or not at all."""

    def __init__(self, more: dict[str, Any]) -> None:
        self.more = more

    def call(self, _operation: str, **_parameters: Any) -> dict[str, Any]:
        return {"Contents": [{"Key": "items/aa/1"}], "IsTruncated": True, **self.more}

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("more", [{}, {"NextContinuationToken": ""}, {"NextContinuationToken": "again"}])
def test_a_listing_that_leads_nowhere_ends(more: dict[str, Any]) -> None:
    """It is the store's failure, told as such, and neither a bug nor a listing without end."""
    volume = S3Volume(S3Settings(bucket="backups", access_key="a", secret=Secret("s"), region="eu-west-1"))
    volume.close()
    volume._client = Circling(more)  # type: ignore[assignment]
    with pytest.raises(VolumeError, match="listing") as told:
        list(islice(volume.names(), 100))
    assert not told.value.permanent
