"""The format of encrypted volumes: later versions read what was written once, and so does the page alone."""

from __future__ import annotations

import base64

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from backupd.volumes.encrypting import EncryptingVolume
from backupd.volumes.keyring import Keyring, MasterKey
from backupd.volumes.memory import MemoryVolume

MASTER = b"o" * 32
NAME, CONTENT = "items/aA/0123", b"content of format 1"
KEY_NAME = "encryption/1cf5699e8add12e7"
SEALED_NAME = "items/-F1aQyMu7GgPCdVA8q5NVQ5K/d8WDubz1g1WBzYWBjanq24E0iZE"
KEY = base64.b64decode(
    "eyJmb3JtYXQiOjEsImtleSI6IjgwZHNsQlRERytoQWhRYWZEaGtiTXhCSWpEVDYyaUM1bGU5Vk8vMjBVOGxJQitCbGszTG56"
    "L1ZoMjYwTVZqbWtwS0FtVzhjWUpZNGJEWlJrdVhKU0RMRFFWNUFtdzZDayJ9"
)
SEALED = base64.b64decode(
    "YmtzZWFsZWQBEBz1aZ6K3RLndJcsPDG3RQk4IGgkFLrsbz5gFZy4dgfmzkq1RBh1jrRKYOD/IyhACB3Im34lNBnNmsw70hnB"
    "GQyt4/1xPjYHAahTVeusFtO9RYHa5F42GV0M"
)
"""What format 1 made of them under the master key."""


def test_format_1_is_read() -> None:
    """A volume of the first format opens: its listing, the whole and a part."""
    inner = MemoryVolume()
    inner.put(KEY_NAME, KEY)
    inner.put(SEALED_NAME, SEALED)
    volume = EncryptingVolume(inner, Keyring([MasterKey(MASTER)]))
    assert list(volume.names()) == [NAME]
    with volume.get(NAME) as file:
        assert file.read() == CONTENT
    with volume.get(NAME, offset=8, length=2) as file:
        assert file.read() == b"of"


def derived(purpose: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, None, purpose).derive(MASTER)


def test_the_page_tells_enough_to_read_it() -> None:
    """Nothing but docs/formats.md and a library of ciphers opens name and content."""
    key_id = derived(b"backupd master key id", 8)
    wrapping = derived(b"backupd master key wrapping", 32)
    names_key = derived(b"backupd names on a volume", 64)
    assert f"encryption/{key_id.hex()}" == KEY_NAME
    assert aes_key_unwrap(wrapping, base64.b64decode(msgspec.json.decode(KEY)["key"])) == names_key
    cipher = AESSIV(names_key)
    first, *levels = SEALED_NAME.split("/")
    path, name = first, first
    for level in levels:
        encrypted = base64.urlsafe_b64decode(level + "=" * (-len(level) % 4))
        name += "/" + cipher.decrypt(encrypted, [path.encode()]).decode()
        path += "/" + level
    assert name == NAME
    header, chunk = SEALED[:64], SEALED[64:]
    assert header[:18] == b"bksealed" + bytes([1, 16]) + key_id
    nonce = header[18:24] + bytes(5) + b"\x01"
    content_key = aes_key_unwrap(wrapping, header[24:])
    assert AESGCM(content_key).decrypt(nonce, chunk, header + name.encode()) == CONTENT
