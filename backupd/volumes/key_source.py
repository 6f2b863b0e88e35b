"""Where the master keys come from: a file, a systemd credential, or what a command prints.

They are read once, when a volume is opened. The command gets no shell, no input and a bounded time; what it
prints on its standard error is shown where it fails. Blocks; fails with `ConfigError`, that holds no key.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from backupd.config_sections import Encryption
from backupd.errors import ConfigError
from backupd.volumes.keyring import HOW_TO_MAKE, Keyring, parse_keys

CREDENTIAL = "volume_key"
KEYS_BYTES_MAX = 64 * 1024
COMMAND_SECONDS_MAX = 30.0
_SAID_CHARACTERS_MAX = 200


def read_keyring(encryption: Encryption, environ: Mapping[str, str]) -> Keyring:
    """Return the configured master keys. Raises `ConfigError`."""
    if encryption.key_file is not None:
        return parse_keys(_file(encryption.key_file), str(encryption.key_file))
    if encryption.key_command:
        return parse_keys(_printed(encryption.key_command), encryption.key_command[0])
    directory = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / CREDENTIAL if directory else None
    if credential is not None and credential.exists():
        return parse_keys(_file(credential), f"the credential {CREDENTIAL}")
    raise ConfigError(
        "the volume's encryption is on and there is no master key",
        hint="give key_file or key_command in [encryption] of the configuration, or the systemd credential "
        f"{CREDENTIAL}; {HOW_TO_MAKE}",
    )


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(KEYS_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"the master keys in {path} can't be read: {error.strerror}",
            hint="put them back for the service's user to read, and restart; nothing is lost meanwhile",
        ) from error
    return _text(content, str(path))


def _printed(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the administrator's own command, from the configuration
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS_MAX, check=False
        )
    except OSError as error:
        raise ConfigError(f"{command[0]} can't be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{command[0]} printed no master key within {COMMAND_SECONDS_MAX:.0f} seconds"
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[:_SAID_CHARACTERS_MAX]
        raise ConfigError(f"{command[0]} ended with status {done.returncode}: {said}")
    return _text(done.stdout, command[0])


def _text(content: bytes, source: str) -> str:
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > KEYS_BYTES_MAX:
        raise ConfigError(f"{source} holds no text of master keys", hint=HOW_TO_MAKE)
    return text
