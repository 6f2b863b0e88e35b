"""Files of a mail host are damaged under a real daemon; doRestoreBlobs finds them and puts them back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.patience import eventually

ADDRESS = "user0000@example.test"
EDIT = b"BEGIN:VCARD\r\nVERSION:3.0\r\nUID:edited\r\nFN:Edited by hand\r\nEND:VCARD\r\n"
AN_HOUR = 3600


class Seen(NamedTuple):
    """A file as it is to be again."""

    content: bytes
    mode: int
    owner: tuple[int, int]
    mtime_ns: int


def seen(path: Path) -> Seen:
    facts = path.stat()
    return Seen(path.read_bytes(), facts.st_mode, (facts.st_uid, facts.st_gid), facts.st_mtime_ns)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=[False, True], ids=["unwatched", "watched"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, mailtree.MailTree]]:
    place = tmp_path_factory.mktemp("contents")
    tree = mailtree.build(
        place / "vmail", accounts=1, messages=8, contacts=3, appointments=2, documents=2, size=300
    )
    if os.geteuid() == 0:
        for path in (tree.account(ADDRESS), *tree.account(ADDRESS).rglob("*")):
            os.chown(path, 12345, 23456)
    with Daemon(place / "b", tree.root, watch=request.param) as daemon:
        assert daemon.wait_until_scanned()["status"] == "successful"
        yield daemon, tree


def restore(daemon: Daemon, volume: str = "all", **given: Any) -> Any:
    return daemon.run("backup/doRestoreBlobs", volume_id=volume, **given)


def wait_until_recorded(daemon: Daemon, item: str, size: int) -> None:
    """Wait until the watch has recorded a damage, so that it has to be seen through."""
    eventually(f"{item} has {size} bytes", lambda: daemon.last(ADDRESS, item)["size"] == size)


def test_damaged_files_come_back_as_they_were(world: tuple[Daemon, mailtree.MailTree]) -> None:
    """Truncated, emptied, altered, unreadable: listed, put back with name, owner, mode, date; edits stay."""
    daemon, tree = world
    is_watched = "watch = true" in daemon.config.read_text()
    messages = sorted((tree.maildir(ADDRESS) / "cur").iterdir())
    cut, emptied, locked, flipped = messages[:4]
    contacts = sorted(tree.account(ADDRESS).rglob("*.vcf"))
    event = next(iter(sorted(tree.account(ADDRESS).rglob("*.ics"))))
    damaged = [cut, emptied, locked, contacts[0], event]
    if not is_watched:
        # A watch records another content of the same length as what it is now.
        damaged.append(flipped)
    before = {path: seen(path) for path in damaged}
    names = files(tree.root)
    os.truncate(cut, 40)
    os.truncate(emptied, 0)
    locked.chmod(0)
    if not is_watched:
        content = bytearray(flipped.read_bytes())
        content[100] ^= 1
        flipped.write_bytes(content)
    contacts[1].write_bytes(EDIT)
    for path in (contacts[0], event):
        path.write_bytes(b"")
        os.utime(path, (time.time() - AN_HOUR,) * 2)
    if is_watched:
        wait_until_recorded(daemon, cut.name.partition(":")[0], 40)
        wait_until_recorded(daemon, emptied.name.partition(":")[0], 0)
        wait_until_recorded(daemon, contacts[0].stem, 0)

    told = restore(daemon)
    assert told["status"] == "successful", told
    assert told["verdict"].startswith("dry run")
    assert f" {len(damaged)} would be put back" in told["verdict"], told
    listed = " ".join(told["errors"])
    for path in damaged:
        assert (path.name.partition(":")[0] if path.parent.name == "cur" else path.stem) in listed
    assert seen(emptied).content == b""

    done = restore(daemon, dryrun=False, threads=2)
    assert done["status"] == "successful", done
    assert f" {len(damaged)} put back and read back as equal, 0 unrestored" in done["verdict"], done
    assert {path: seen(path) for path in damaged if path != locked} == {
        path: facts for path, facts in before.items() if path != locked
    }
    assert seen(locked) == before[locked]._replace(mode=0o100600)
    assert contacts[1].read_bytes() == EDIT
    assert files(tree.root) == names
    again = restore(daemon, dry_run=False)
    assert " 0 put back" in again["verdict"], again
    scanned = daemon.scan(deep=True)
    assert scanned["status"] == "successful", scanned
    assert daemon.last(ADDRESS, emptied.name.partition(":")[0])["size"] == len(before[emptied].content)


def test_what_is_gone_is_left_to_undelete(world: tuple[Daemon, mailtree.MailTree]) -> None:
    """A message's file that is gone is counted and not made anew; unknown volumes are refused."""
    daemon, tree = world
    message = min((tree.maildir(ADDRESS) / "cur").iterdir())
    message.unlink()
    done = restore(daemon, "mail", dry_run=False)
    assert done["status"] == "successful", done
    assert " 0 put back" in done["verdict"]
    assert not message.exists()
    refused = restore(daemon, "message1")
    assert refused["status"] == "failed"
    assert "message1" in refused["verdict"]
