"""The volume's own key: the one under which the names on an encrypted volume are encrypted.

It follows from the master key that was the newest when the volume was new. So that the names stay as they are
when that key is changed, it rests on the volume as `encryption/<id of a master key>`, wrapped by each master
key that was ever the newest. Should these objects be lost, it is found again by trying the configured keys.

Fails with `KeyMissing`, `ContentTampered`, and a permanent `VolumeError` for a volume that holds contents
which are not encrypted: what an attacker put there must not pass for encrypted ones.
"""

from __future__ import annotations

import msgspec

from backupd.decoding import decoded
from backupd.errors import VolumeError
from backupd.volumes.base import Volume
from backupd.volumes.key_folder import KEYS_FOLDER, is_reserved, key_ids
from backupd.volumes.keyring import NAMES_KEY_BYTES, Keyring, WrongUnwrap
from backupd.volumes.sealed_names import NotOurs, SealedNames
from backupd.volumes.sealing import ContentTampered

KEY_FORMAT = 1


class _Wrapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key as it rests on the volume."""

    format: int
    key: bytes


class FoundKey(msgspec.Struct, frozen=True):
    """The key. `kept`: the newest master key has it on the volume; `settled`: the volume is not new."""

    key: bytes
    kept: bool
    settled: bool = True


def find_key(inner: Volume, keyring: Keyring) -> FoundKey:
    """Return the key of a volume, without writing; of a new one the key that `keep_key` will keep."""
    found = key_ids(inner)
    newest = keyring.newest.id.hex()
    for key_id in keyring.ids:
        # Asked for by name, too: a listing may lag behind, and a volume that only looks new is none.
        if key_id in found or inner.exists(f"{KEYS_FOLDER}/{key_id}"):
            return FoundKey(_read(inner, keyring, key_id), newest in found)
    if found:
        keyring.key(bytes.fromhex(found[0]))
    return _tried(inner, keyring)


def keep_key(inner: Volume, keyring: Keyring) -> FoundKey:
    """Return the key of a volume, kept there for the newest master key from now on."""
    found = find_key(inner, keyring)
    if not found.kept:
        newest = keyring.newest
        wrapped = msgspec.json.encode(_Wrapped(KEY_FORMAT, newest.wrap(found.key)))
        inner.put(f"{KEYS_FOLDER}/{newest.id.hex()}", wrapped)
    return FoundKey(found.key, kept=True)


def _read(inner: Volume, keyring: Keyring, key_id: str) -> bytes:
    name = f"{KEYS_FOLDER}/{key_id}"
    with inner.get(name) as file:
        content = file.read()
    try:
        found = decoded(content, _Wrapped)
        key = keyring.key(bytes.fromhex(key_id)).unwrap(found.key)
    except (msgspec.DecodeError, WrongUnwrap):
        raise ContentTampered(name, "the volume's key does not unwrap") from None
    if found.format != KEY_FORMAT or len(key) != NAMES_KEY_BYTES:
        raise ContentTampered(name, f"its format {found.format} is not known")
    return key


def _tried(inner: Volume, keyring: Keyring) -> FoundKey:
    """Return the key of a volume that keeps none: a new one's, or the one that opens a name there."""
    stranger = ""
    for name in inner.names():
        if is_reserved(name):
            continue
        stranger = name
        for master in keyring:
            try:
                if "/" in SealedNames(master.names_key).opened(name):
                    return FoundKey(master.names_key, kept=False)
            except NotOurs:
                continue
        break
    if not stranger:
        return FoundKey(keyring.newest.names_key, kept=False, settled=False)
    raise VolumeError(
        "the volume holds contents that are not encrypted, or under a master key that is not configured",
        permanent=True,
        hint="use an empty path, bucket or prefix for an encrypted volume and migrate to it, or add the key",
        name=stranger,
    )
