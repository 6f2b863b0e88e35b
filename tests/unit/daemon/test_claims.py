"""Claims: which places a volume may be, and that one that rests encrypted is not written to in clear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupd.errors import VolumeError
from backupd.volume_choice import VolumeChoice, local_choice
from backupd.volumes import chosen
from backupd.volumes.chosen import ChosenVolume
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.marker import MARKER
from daemon.volume_works import claimed
from tests.unit.store.making import opened
from tests.world.clocks import FakeClock

Claim = Callable[..., ChosenVolume]


@pytest.fixture
def claim(tmp_path: Path) -> Iterator[Claim]:
    """Return what claims a directory, encrypted or not, and opens it."""
    nas, clock = tmp_path / "nas", FakeClock()
    nas.mkdir()

    def made(choice: VolumeChoice) -> ChosenVolume:
        volume = chosen.make(
            choice,
            (),
            server_id=store.identity.server,
            keyring=lambda: Keyring([MasterKey(b"k" * 32)]),
            clock=clock,
            sleep=lambda _seconds: None,
        )
        assert volume is not None
        return volume

    def claiming(encrypted: bool, place: Path = nas) -> ChosenVolume:
        choice = local_choice(str(place), encrypted=encrypted)
        return made(claimed(store, made(choice), choice, clock, tmp_path / "vmail"))

    with opened(tmp_path / "backup") as store:
        yield claiming


@pytest.mark.parametrize("first", [True, False])
def test_a_place_stays_what_it_is(claim: Claim, first: bool) -> None:
    """What was begun encrypted is refused in clear, what was begun in clear is refused encrypted."""
    claim(first).volume.put("items/aa/content", b"mail")
    with pytest.raises(VolumeError, match="encrypted") as told:
        claim(not first)
    assert told.value.permanent
    assert claim(first).volume.get("items/aa/content").read() == b"mail"


@pytest.mark.parametrize("first", [True, False])
def test_an_empty_place_may_become_either(claim: Claim, first: bool) -> None:
    """Where nothing was put yet encryption may still be turned on or off."""
    claim(first)
    claim(not first).volume.put("items/aa/content", b"mail")


@pytest.mark.parametrize("place", ["backup", "backup/nas", "vmail/nas", "."])
def test_a_place_beside_what_it_keeps_is_none(claim: Claim, tmp_path: Path, place: str) -> None:
    """Inside the Backup Path, inside the mail, or around them: it would be lost with them."""
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    with pytest.raises(VolumeError, match="lie in each other") as told:
        claim(False, tmp_path / place)
    assert told.value.permanent
    assert not (tmp_path / place / MARKER).exists()
