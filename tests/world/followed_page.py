"""A page of docs/ that is followed word by word: its console lines, and one who types them.

`lines_of` gives the lines of the `sh` blocks of one section. A `Reader` types them: words in capitals are
replaced by what `words` says, the machine's paths by those of the test; `backupctl` is the real console
against a daemon, `systemctl` starts and stops that daemon, an editor writes the text that is prepared for
its file.
What it can't type fails.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import msgspec

from tests.world.daemons import Daemon
from tests.world.patience import eventually

_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PLACEHOLDER = re.compile(r"(?<![\w/$.-])[A-Z][A-Z_]+(?![\w/.=-])")


def sections_of(page: Path) -> dict[str, list[str]]:
    """Return the console lines of each section of a page, by its heading, in order."""
    found: dict[str, list[str]] = {}
    for section in page.read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        lines = [line for block in _BLOCK.findall(text) for line in block.splitlines() if line.strip()]
        found[heading] = [line.partition("    #")[0].rstrip() for line in lines]
    return found


class Typed(msgspec.Struct, frozen=True, kw_only=True):
    """A line that was typed, and what came of it."""

    line: str
    status: int
    said: str


class Reader:
    """Types lines. `paths` replaces beginnings of paths, `texts` is what is written into which file."""

    def __init__(
        self, daemon: Daemon, *, words: dict[str, str], paths: dict[str, Path], texts: dict[str, str]
    ) -> None:
        self.daemon = daemon
        self.words = dict(words)
        self.typed: list[Typed] = []
        self._paths = paths
        self._texts = texts

    def follow(self, lines: list[str]) -> list[Typed]:
        """Type lines; each must succeed. Return what came of them."""
        return [self.type(line) for line in lines]

    def type(self, line: str, *, status: int = 0) -> Typed:
        """Type one line, which must end with a status; a connection may also be tested with warnings."""
        done = self._run(line)
        self.typed.append(done)
        warned = done.status == 1 and "testS3Connection" in line and done.said.startswith("Warning")
        assert done.status == status or warned, f"{line}\n{done.said}\n{self.daemon.log_text()[-2000:]}"
        uuids = _UUID.findall(done.said)
        if "doCreateBucket" in line:
            self.words["ID"] = next(one for one in uuids if one not in self.words.values())
        if "getAllOperations" in line:
            named = [row for row in done.said.splitlines() if "doExternalRestore" in row]
            self.words["UUID"] = _UUID.findall(named[-1])[0]
        return done

    def _run(self, line: str) -> Typed:
        name, *rest = shlex.split(self._placed(line))
        if name == "backupctl":
            may_begin_anew = bool({"setBackupVolume", "ZxBackup_DestPath", "doUpdateBucket"} & set(rest))
            began = self.daemon.status()["started"]
            done = self.daemon.console(*rest, check=False)
            stays = re.search(rb"already|external backup +unused", done.stdout + done.stderr)
            if may_begin_anew and not done.returncode and not stays:
                self._wait_until_anew(began)
            return Typed(line=line, status=done.returncode, said=(done.stdout + done.stderr).decode())
        if name == "systemctl":
            self._systemctl(rest)
        elif name == "$EDITOR":
            Path(rest[0]).write_text(self._texts[shlex.split(line)[1]])
        elif name == "install":
            # The service's user is the one who runs the test.
            words = [name, *rest]
            place = words.index("-o")
            subprocess.run([*words[:place], *words[place + 2 :]], check=True, timeout=10)
        else:
            raise AssertionError(f"nobody can type: {line}")
        return Typed(line=line, status=0, said="")

    def _wait_until_anew(self, began: str) -> None:
        """Wait as one does who types: the daemon begins anew, and answers again."""

        def anew() -> bool:
            try:
                return bool(self.daemon.status()["started"] != began)
            except OSError:
                return False

        eventually("the daemon has begun anew", anew, 20)

    def _systemctl(self, words: list[str]) -> None:
        verb, unit = words
        assert unit == "backupd"
        if verb in {"stop", "restart"}:
            self.daemon.stop()
        if verb in {"start", "restart"}:
            self.daemon.start()
            self.daemon.wait_until_scanned()

    def _placed(self, line: str) -> str:
        for path, place in self._paths.items():
            line = re.sub(rf"(?<![\w/]){re.escape(path)}(?![\w])", str(place), line)
        return _PLACEHOLDER.sub(lambda found: self.words[found[0]], line)
