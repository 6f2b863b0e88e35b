"""Where master keys come from: a file, a command, a credential, in this order."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

from backupd.config_sections import Encryption
from backupd.errors import ConfigError
from backupd.volumes.key_source import CREDENTIAL, read_keyring
from backupd.volumes.keyring import MasterKey

LINES = {name: base64.b64encode(name[:1].encode() * 32).decode() for name in ("file", "command", "systemd")}
IDS = {name: MasterKey(name[:1].encode() * 32).id.hex() for name in LINES}


def command(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


def test_the_three_sources_in_their_order(tmp_path: Path) -> None:
    """The file wins over the command, the command over the credential."""
    (tmp_path / CREDENTIAL).write_text(LINES["systemd"])
    (tmp_path / "key").write_text(LINES["file"])
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    prints = command(f"print({LINES['command']!r})")
    for encryption, source in (
        (Encryption(key_file=tmp_path / "key", key_command=prints), "file"),
        (Encryption(key_command=prints), "command"),
        (Encryption(), "systemd"),
    ):
        assert read_keyring(encryption, environ).ids == (IDS[source],)


@pytest.mark.parametrize(
    ("encryption", "said"),
    [
        (Encryption(), "openssl rand"),
        (Encryption(key_file=Path("/nowhere/key")), "No such file"),
        (Encryption(key_command=("/nowhere/tool",)), "can't be started"),
        (Encryption(key_command=command("import sys; sys.exit('locked')")), "status 1: locked"),
        (Encryption(key_command=command("print('hunter2')")), "line 1 of"),
        (Encryption(key_command=command("")), "no text of master keys"),
    ],
)
def test_what_goes_wrong_says_where(encryption: Encryption, said: str) -> None:
    """Each error names the source and what to do, and holds nothing of a key."""
    with pytest.raises(ConfigError) as told:
        read_keyring(encryption, {})
    assert said in str(told.value)
    assert "hunter2" not in told.value.message
