"""The manual page: every command and option is on it, and formatters find no fault."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from backupd.cli.help import OPTIONS
from backupd.cli.manual import escaped, manual
from backupd.commands import COMMANDS


def rendered() -> str:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=800n"],
        input=manual().encode(),
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == b""
    return done.stdout.decode()


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is missing: install groff")
def test_every_command_and_option_is_on_the_page():
    """As groff prints it, each available command stands with its usage, each option with its name."""
    lines = {re.sub(r"\s+", " ", line).strip() for line in rendered().splitlines()}
    for command in COMMANDS:
        assert (command.usage in lines) == command.available, command.usage
    for name, _ in OPTIONS:
        assert any(line.startswith(name) for line in lines)


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is missing: install mandoc")
def test_mandoc_finds_no_fault():
    """Mandoc has no warning about the page."""
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning"],
        input=manual().encode(),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (".so /etc/passwd", r"\&.so /etc/passwd"),
        ("'hello'", r"\(aqhello\(aq"),
        (r"a\fB--x", r"a\efB\-\-x"),
    ],
)
def test_no_text_is_a_request(text: str, source: str):
    """Whatever a meaning says, roff prints it as it is."""
    assert escaped(text) == source
