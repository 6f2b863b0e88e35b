"""The mounted path as a volume: whose it is, and what happens when it fills, turns read-only or goes away.

The file systems are real: a tmpfs of one megabyte, mounted and taken away under the volume.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.errors import SpaceExhausted, VolumeError
from backupd.volumes.marker import MARKER, STAGED, NotMounted, has_own_file_system, prepare
from backupd.volumes.mounted import MountedVolume
from tests.world.faults import KILL_ALONE, Fault, Faults

SERVER = "11111111-2222-4333-8444-555555555555"
NOW = datetime(2026, 11, 24, tzinfo=UTC)
NAME = "items/aA/0123"


def made(root: Path, server_id: str = SERVER) -> MountedVolume:
    """Return a directory as a new volume."""
    root.mkdir(exist_ok=True)
    marker = prepare(root, server_id=server_id, server_name="mail", now=NOW)
    return MountedVolume(root, server_id=server_id, volume_id=marker.volume_id)


def whole(volume: MountedVolume, name: str) -> bytes:
    with volume.get(name) as file:
        return file.read()


def every_call(volume: MountedVolume) -> list[object]:
    """Return every call of a volume, to be made."""
    return [
        lambda: volume.put("new/name", b"x"),
        lambda: volume.get(NAME),
        lambda: volume.exists(NAME),
        lambda: volume.size(NAME),
        lambda: volume.delete(NAME),
        lambda: list(volume.names()),
        volume.remove_leftovers,
        volume.marker,
    ]


def mount(root: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("size=1m", *options)), "tmpfs", root], check=True)


def unmount(root: Path) -> None:
    subprocess.run(["umount", root], check=True)


@pytest.fixture
def mounted(tmp_path) -> Iterator[Path]:
    """Return a path with a tmpfs of one megabyte on it."""
    root = tmp_path / "mnt"
    root.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"mounting is not allowed here: {tried.stderr.decode().strip()}")
    yield root
    subprocess.run(["umount", "--lazy", root], check=False, capture_output=True)


def test_a_mount_that_is_gone_is_never_written_beneath(mounted):
    """Unmounted below its feet every call says so, nothing lands beneath; it heals when the mount is back."""
    volume = made(mounted)
    volume.put(NAME, b"kept")
    held = mounted.with_name("held")
    held.mkdir()
    subprocess.run(["mount", "--bind", mounted, held], check=True)
    unmount(mounted)
    try:
        for call in every_call(volume):
            with pytest.raises(NotMounted) as told:
                call()
            assert not told.value.permanent
            assert str(mounted) in told.value.message
            assert "mount it" in told.value.hint
        assert list(mounted.iterdir()) == []
        subprocess.run(["mount", "--bind", held, mounted], check=True)
        assert whole(volume, NAME) == b"kept"
        assert volume.put("new/name", b"x")
    finally:
        subprocess.run(["umount", "--lazy", held], check=False)


def test_an_upload_under_way_goes_to_its_mount_or_nowhere(mounted):
    """The path changes while content is read: what is written goes to the old file system, never beneath."""
    volume = made(mounted)

    class Unmounting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if not self.tell():
                subprocess.run(["umount", "--lazy", mounted], check=True)
            return super().read(size)

    volume.put(NAME, Unmounting(b"x" * 100))
    assert list(mounted.iterdir()) == []
    with pytest.raises(NotMounted):
        volume.exists(NAME)


def test_another_file_system_in_its_place(mounted):
    """An empty one, or another volume of the same server, is not taken for the mount."""
    volume = made(mounted)
    mount(mounted)
    try:
        with pytest.raises(NotMounted, match=r"has no \.backupd-volume"):
            volume.put(NAME, b"x")
        made(mounted)
        with pytest.raises(NotMounted, match="another volume of this server"):
            volume.put(NAME, b"x")
    finally:
        unmount(mounted)
    assert volume.put(NAME, b"x")


def test_a_full_file_system(mounted):
    """What does not fit leaves nothing behind, says so, and fits once there is space."""
    volume = made(mounted)
    volume.put("old", bytes(600_000))
    for content in (bytes(600_000), io.BytesIO(bytes(600_000))):
        with pytest.raises(SpaceExhausted, match="free space"):
            volume.put(NAME, content)
    assert list((mounted / STAGED).iterdir()) == []
    assert not volume.exists(NAME)
    assert whole(volume, "old") == bytes(600_000)
    volume.delete("old")
    assert volume.put(NAME, bytes(600_000))


def test_a_read_only_file_system(mounted):
    """Reading goes on, writing and deleting say why and how to cure it, and work again afterwards."""
    volume = made(mounted)
    volume.put(NAME, b"kept")
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    for call in (lambda: volume.put("new", b"x"), lambda: volume.delete(NAME)):
        with pytest.raises(VolumeError, match="read-only") as told:
            call()
        assert not told.value.permanent
        assert "remount,rw" in told.value.hint
    assert whole(volume, NAME) == b"kept"
    subprocess.run(["mount", "-o", "remount,rw", mounted], check=True)
    assert volume.put("new", b"x")
    assert has_own_file_system(mounted)


def test_the_path_can_be_unmounted_between_calls(mounted):
    """No descriptor is held, so that an admin need not stop the daemon."""
    volume = made(mounted)
    volume.put(NAME, b"x")
    assert list(volume.names()) == [NAME]
    unmount(mounted)
    mount(mounted)


def test_what_a_missing_directory_is(tmp_path):
    """A path that is not there, or is a file, is not mounted."""
    volume = MountedVolume(tmp_path / "none", server_id=SERVER)
    (tmp_path / "file").touch()
    for one in (volume, MountedVolume(tmp_path / "file", server_id=SERVER)):
        with pytest.raises(NotMounted):
            one.exists(NAME)


def test_preparing(tmp_path):
    """A volume is made once on an empty directory; again it is the same; anything else there is refused."""
    volume = made(tmp_path / "v")
    first = volume.marker()
    assert (first.server_id, first.server_name, first.since) == (SERVER, "mail", NOW)
    assert made(tmp_path / "v").marker() == first
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    with pytest.raises(VolumeError, match="not empty") as told:
        made(tmp_path / "full")
    assert told.value.permanent
    assert not (tmp_path / "full" / MARKER).exists()
    with pytest.raises(VolumeError, match="cannot use"):
        prepare(tmp_path / "none", server_id=SERVER, server_name="", now=NOW)


def test_another_servers_volume(tmp_path):
    """Every call and `prepare` refuse it; anybody's is read where that is asked for, never written."""
    made(tmp_path / "v").put(NAME, b"theirs")
    stranger = MountedVolume(tmp_path / "v", server_id="another")
    for call in every_call(stranger):
        with pytest.raises(VolumeError, match="another server: mail") as told:
            call()
        assert told.value.permanent
    with pytest.raises(VolumeError, match="another server"):
        made(tmp_path / "v", "another")
    reader = MountedVolume(tmp_path / "v", server_id=None)
    assert whole(reader, NAME) == b"theirs"
    with pytest.raises(VolumeError, match="reading alone"):
        reader.put("new", b"x")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "can't be read"), (b"{", "can't be read"), (b'{"format": 99, %s}', "newer version")],
)
def test_a_marker_that_does_not_fit(tmp_path, content, said):
    """A damaged marker or one of a newer format is refused for good, and says what to do."""
    volume = made(tmp_path / "v")
    rest = b'"server_id": "a", "volume_id": "b", "since": "2026-11-24T00:00:00Z"'
    (tmp_path / "v" / MARKER).write_bytes(content.replace(b"%s", rest))
    with pytest.raises(VolumeError, match=said) as told:
        volume.exists(NAME)
    assert told.value.permanent


def test_links_are_not_followed(tmp_path):
    """A link on the way or under a name is an error and never leads out of the volume."""
    volume = made(tmp_path / "v")
    (tmp_path / "outside").mkdir()
    (tmp_path / "v" / "items").symlink_to(tmp_path / "outside")
    with pytest.raises(VolumeError) as told:
        volume.put(NAME, b"x")
    assert told.value.permanent
    (tmp_path / "v" / "one").symlink_to(tmp_path / "outside" / "secret")
    with pytest.raises(VolumeError, match="no regular file"):
        volume.size("one")
    assert list(volume.names()) == []
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_source_that_fails_is_no_fault_of_the_volume(tmp_path):
    """The reader's own error comes out as it is, and nothing is left behind."""
    volume = made(tmp_path / "v")

    class Failing:
        def read(self, size: int, /) -> bytes:
            raise OSError(errno.EROFS, "of the source")

    with pytest.raises(OSError, match="of the source"):
        volume.put(NAME, Failing())
    assert list((tmp_path / "v" / STAGED).iterdir()) == []


KILLED = """
import sys; from pathlib import Path
from tests.world import faults; faults.install()
from backupd.volumes.mounted import MountedVolume
MountedVolume(Path(sys.argv[1]), server_id=sys.argv[2]).put("items/aA/0123", b"x" * 5000)
"""


@pytest.mark.parametrize("step", ["mounted.write", "mounted.written", "mounted.named"])
def test_a_killed_upload_leaves_all_or_nothing(tmp_path, step):
    """The name is there with its whole content or not at all; the leftovers of the dead are removed."""
    volume = made(tmp_path / "v")
    faults = Faults(tmp_path / "faults")
    faults.arm(Fault(step=step, action=KILL_ALONE))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "v", SERVER],
        env={**os.environ, **faults.environment},
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert faults.hits() == [step]
    named = step == "mounted.named"
    assert list(volume.names()) == ([NAME] if named else [])
    if named:
        assert whole(volume, NAME) == b"x" * 5000
    assert volume.remove_leftovers() == (step == "mounted.written")
    assert volume.put(NAME, b"x" * 5000) is not named
