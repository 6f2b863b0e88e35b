"""The holding area of a mail host: links for messages, copies for the rest, and where it refuses."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.appservers.base import Content
from backupd.appservers.directory_reader import WHOLE_BYTES_MAX, DirectoryReader, Locator
from backupd.appservers.holding import AREA, HoldingArea
from backupd.errors import AppServerRefused, ItemVanished
from backupd.items import Area, digest_of
from tests.unit.store.making import failing
from tests.world.mailtree import make_maildir
from tests.world.nobody import as_nobody

HOME = "example.test/alice"
BASE = "1600000000.M1P1.mail"
SMALL, BIG = b"Subject: one\r\n\r\ntext\r\n", b"Subject: big\r\n\r\n" + b"x" * WHOLE_BYTES_MAX


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = Path(os.path.realpath(tmp_path))
    make_maildir(path / HOME / "Maildir")
    (path / HOME / "files").mkdir()
    return path


@pytest.fixture
def holding(root: Path) -> HoldingArea:
    return HoldingArea(str(root))


def message(root: Path, content: bytes = SMALL, name: str = f"cur/{BASE}:2,S") -> Path:
    path = root / HOME / "Maildir" / name
    path.write_bytes(content)
    return path


def content_of(root: Path, path: Path) -> Content:
    area, folder = (Area.MAIL, "INBOX") if "Maildir" in path.parts else (Area.FILES, "")
    _, reading = DirectoryReader(str(root)).read_at(Locator(area, folder, str(path.relative_to(root))))
    assert reading.content is not None
    return reading.content


def held_file(root: Path, content: bytes) -> Path:
    digest = digest_of(content)
    return root / AREA / digest[0] / digest


@pytest.mark.parametrize("content", [SMALL, BIG], ids=["read at once", "streamed"])
def test_a_deleted_message_is_still_there_and_cost_no_space(
    root: Path, holding: HoldingArea, content: bytes
) -> None:
    """The held file is the message's own inode; after the mail client's unlink it has the same bytes."""
    path = message(root, content)
    held = holding.hold(content_of(root, path))
    assert held_file(root, content).samefile(path)
    path.unlink()
    assert held.digest == digest_of(content)
    assert held_file(root, content).read_bytes() == content
    assert (root / AREA).stat().st_mode & 0o777 == 0o700


def test_a_message_renamed_since_it_was_read_is_linked(root: Path, holding: HoldingArea) -> None:
    """A change of flags between reading and holding is followed; one that is gone has vanished."""
    path = message(root)
    content = content_of(root, path)
    path = path.rename(path.with_name(f"{BASE}:2,FS"))
    holding.hold(content)
    assert held_file(root, SMALL).samefile(path)
    path.unlink()
    with pytest.raises(ItemVanished):
        holding.hold(content)


def test_the_same_content_of_two_messages_is_held_whichever_goes(root: Path, holding: HoldingArea) -> None:
    """One of two equal messages is what is linked; deleting both loses nothing, and nothing is left aside."""
    paths = [message(root, name=f"cur/{name}:2,") for name in ("1.a", "2.b")]
    for path in (*paths, *paths):
        holding.hold(content_of(root, path))
    for path in paths:
        path.unlink()
    shard = held_file(root, SMALL).parent
    assert [one.name for one in shard.iterdir()] == [digest_of(SMALL)]
    assert held_file(root, SMALL).read_bytes() == SMALL


def test_a_document_rewritten_in_place_is_held_as_it_was(root: Path, holding: HoldingArea) -> None:
    """Documents are copied, so that software that writes into the file itself changes nothing held."""
    path = root / HOME / "files" / "plan.txt"
    path.write_bytes(b"first")
    holding.hold(content_of(root, path))
    assert not held_file(root, b"first").samefile(path)
    with path.open("r+b") as file:
        file.write(b"other")
    assert held_file(root, b"first").read_bytes() == b"first"
    assert holding.hold(content_of(root, path)).digest == digest_of(b"other")


def test_a_cut_held_file_is_replaced_when_it_is_held_again(root: Path, holding: HoldingArea) -> None:
    """What a power cut left short under a digest is no content: holding the item again makes it whole."""
    path = message(root)
    holding.hold(content_of(root, path))
    short = held_file(root, SMALL)
    short.unlink()
    short.write_bytes(b"")
    holding.hold(content_of(root, path))
    assert short.read_bytes() == SMALL


@pytest.mark.parametrize("step", ["holding.linked", "holding.named"])
def test_a_failure_on_the_way_leaves_the_message_and_is_mended_by_the_next(
    root: Path, holding: HoldingArea, step: str
) -> None:
    """An error between link and name leaves no half-held content; the next time it is held."""
    path = message(root)
    with failing(step), pytest.raises(Exception, match="injected"):
        holding.hold(content_of(root, path))
    assert path.read_bytes() == SMALL
    holding.hold(content_of(root, path))
    assert held_file(root, SMALL).samefile(path)
    later = datetime.now(UTC) + timedelta(hours=1)
    holding.release(lambda _: True, before=later)
    assert [one.name for one in held_file(root, SMALL).parent.iterdir()] == [digest_of(SMALL)]


def test_release_spares_what_was_held_again_meanwhile(root: Path, holding: HoldingArea) -> None:
    """Held again, a content counts as new although its file is old: whoever held it may refer to it soon."""
    for path, content in ((message(root), SMALL), (root / HOME / "files" / "a", b"document")):
        path.write_bytes(content)
        holding.hold(content_of(root, path))
        before = held_file(root, content).stat().st_ctime_ns
        while datetime.now(UTC).timestamp() * 1e9 < before + 2e7:
            pass
        moment = datetime.now(UTC)
        while holding.hold(content_of(root, path)) and held_file(root, content).stat().st_ctime_ns == before:
            pass
        holding.release(lambda _: False, before=moment - timedelta(milliseconds=10))
        assert holding.contains(digest_of(content))


def test_an_area_that_is_a_link_is_refused(root: Path, holding: HoldingArea, tmp_path: Path) -> None:
    """A link in place of the area leads nowhere: refused, and nothing is written behind it."""
    target = tmp_path / "outside"
    (target / "0").mkdir(parents=True)
    (root / AREA).symlink_to(target)
    with pytest.raises(AppServerRefused, match="can't hold what is deleted"):
        holding.check()
    assert list((target / "0").iterdir()) == []


@pytest.fixture
def other_file_system(root: Path) -> Iterator[Path]:
    """Mount another file system where a second account has its mail."""
    place = root / "example.test" / "bob"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "none", place], check=False).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def test_mail_on_two_file_systems_is_refused(holding: HoldingArea, other_file_system: Path) -> None:
    """An account that lies elsewhere could not be linked: the refusal names its place."""
    make_maildir(other_file_system / "Maildir")
    with pytest.raises(AppServerRefused, match="bob/Maildir lies on another file system"):
        holding.check()


def test_content_on_another_file_system_is_copied_all_the_same(
    root: Path, holding: HoldingArea, other_file_system: Path
) -> None:
    """An account made elsewhere after the check loses nothing: what can't be linked is copied."""
    make_maildir(other_file_system / "Maildir")
    path = other_file_system / "Maildir" / "cur" / f"{BASE}:2,"
    path.write_bytes(SMALL)
    holding.hold(content_of(root, path))
    path.unlink()
    assert held_file(root, SMALL).read_bytes() == SMALL


def test_mail_of_another_user_is_refused_and_copied_all_the_same() -> None:
    """The kernel lets nobody link what is root's: the check says so, and what is held even so is a copy."""
    if os.geteuid() != 0 or Path("/proc/sys/fs/protected_hardlinks").read_text().strip() != "1":
        pytest.skip("needs root, and fs.protected_hardlinks")
    with tempfile.TemporaryDirectory() as here:
        root = Path(os.path.realpath(here))
        make_maildir(root / HOME / "Maildir")
        root.chmod(0o777)
        for place in (*(root / HOME).rglob("*"), root / HOME, root / "example.test"):
            place.chmod(0o755)
        content, holding = content_of(root, message(root)), HoldingArea(str(root))

        def refused() -> str:
            try:
                holding.check()
            except AppServerRefused as error:
                return str(error)
            return ""

        assert "CAP_FOWNER" in as_nobody(refused)
        assert as_nobody(lambda: holding.hold(content)).digest == digest_of(SMALL)
        assert held_file(root, SMALL).read_bytes() == SMALL


def test_a_check_leaves_nothing_behind(root: Path, holding: HoldingArea) -> None:
    """Trying it out with a file of its own and with a message changes neither, and leaves no file."""
    path = message(root)
    holding.check()
    assert path.stat().st_nlink == 1
    assert [one for one in (root / AREA).rglob("*") if one.is_file()] == []
