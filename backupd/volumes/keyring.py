"""The keyring: the master keys that contents and names on a volume are encrypted under, the newest first.

A master key is 32 random bytes, written as Base64 on a line of its own; a text holds several, the newest
first, so that a key is changed by putting a new line above the old ones. A key's id (8 bytes) follows from
the key, so nobody has to name keys and a key never passes for another one. Master keys wrap keys (AES Key
Wrap, RFC 3394) and touch no content themselves.

Fails with `ConfigError` for a text that holds no keys, with `KeyMissing` where none of the keys is the one
that is needed. No message holds a key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from backupd.errors import ConfigError, VolumeError

KEY_BYTES = 32
KEY_ID_BYTES = 8
NAMES_KEY_BYTES = 64
KEYS_MAX = 100
WRAPPED_MORE_BYTES = 8
"""So many bytes longer than a key is its wrapped form."""
HOW_TO_MAKE = "openssl rand -base64 32 makes one"


class KeyMissing(VolumeError):
    """What rests on the volume is encrypted under a master key that is not among the configured ones."""

    def __init__(self, key_id: str, known: Iterable[str]) -> None:
        super().__init__(
            f"the master key {key_id} is needed and not configured",
            permanent=True,
            hint="put its line below the others in the text of the keys, which has "
            f"{', '.join(known)}; without it nobody can read what it encrypted",
            key_id=key_id,
        )


class WrongUnwrap(Exception):
    """The wrapped key was changed: it does not come from this master key."""


class MasterKey:
    """One master key; shows nothing but its id."""

    __slots__ = ("_names", "_wrapping", "id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, not {len(key)}")
        self.id = _derived(key, b"backupd master key id", KEY_ID_BYTES)
        self._wrapping = _derived(key, b"backupd master key wrapping", KEY_BYTES)
        self._names = _derived(key, b"backupd names on a volume", NAMES_KEY_BYTES)

    def __repr__(self) -> str:
        return f"MasterKey({self.id.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a master key is not written anywhere")

    @property
    def names_key(self) -> bytes:
        """The key of the names on a volume that is new while this is the newest master key."""
        return self._names

    def wrap(self, key: bytes) -> bytes:
        """Return a key encrypted under this one."""
        return aes_key_wrap(self._wrapping, key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """Return what `wrap` was given. Raises `WrongUnwrap`."""
        try:
            return aes_key_unwrap(self._wrapping, wrapped)
        except InvalidUnwrap as error:
            raise WrongUnwrap from error


class Keyring:
    """Master keys, the newest first."""

    def __init__(self, keys: Iterable[MasterKey]) -> None:
        self._keys = {key.id: key for key in keys}
        if not self._keys:
            raise ConfigError("there is no master key for the volume's encryption", hint=HOW_TO_MAKE)
        self.newest = next(iter(self._keys.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, in hexadecimal, the newest first."""
        return tuple(key_id.hex() for key_id in self._keys)

    def __iter__(self) -> Iterator[MasterKey]:
        return iter(self._keys.values())

    def key(self, key_id: bytes) -> MasterKey:
        """Return the key of this id. Raises `KeyMissing`."""
        try:
            return self._keys[key_id]
        except KeyError:
            raise KeyMissing(key_id.hex(), self.ids) from None


def parse_keys(text: str, source: str) -> Keyring:
    """Return the keys of a text: one a line in Base64, the newest first, `#` begins a comment.

    Raises `ConfigError` that names the source and the line, never what stands there.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            keys.append(MasterKey(base64.b64decode(word, validate=True)))
        except (ValueError, binascii.Error):
            raise ConfigError(
                f"line {number} of {source} is no master key",
                hint=f"a key is {KEY_BYTES} random bytes in Base64: {HOW_TO_MAKE}",
            ) from None
    if not 0 < len(keys) <= KEYS_MAX:
        raise ConfigError(f"{source} holds {len(keys)} master keys", hint=f"1 to {KEYS_MAX}; {HOW_TO_MAKE}")
    return Keyring(keys)


def _derived(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(key)
