"""Items: what is backed up, how it is named, and how its content is identified.

An item is addressed by an `ItemKey`: the account it belongs to, its kind and its id. Ids are unique within
an account. Items of the whole server (domain, cos, mailing-list) have the empty account. An account is
itself an item: of kind `account`, in the account of its own id.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import zlib
from enum import StrEnum
from urllib.parse import unquote

import msgspec

NAME_BYTES_MAX = 255
ENCODED_CHARACTERS_MAX = 12
"""What one character of an identifier takes in a file name at most: four bytes of UTF-8, three each."""
_PLAIN = re.compile(r"[A-Za-z0-9_@=,+~-][A-Za-z0-9._@=,+~-]*\Z")
_PLAIN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@=,+~-")
_DIGEST = re.compile(r"[A-Za-z0-9+,]{43}=\Z")


class Kind(StrEnum):
    """The kinds of items (spec, "Item")."""

    MESSAGE = "message"
    CONTACT = "contact"
    CONTACT_GROUP = "contact-group"
    FOLDER = "folder"
    APPOINTMENT = "appointment"
    TASK = "task"
    DOCUMENT = "document"
    ACCOUNT = "account"
    MAILING_LIST = "mailing-list"
    DOMAIN = "domain"
    COS = "cos"


class Area(StrEnum):
    """The parts of an account with folder trees of their own; a folder path is unique within its area."""

    MAIL = "mail"
    CONTACTS = "contacts"
    CALENDARS = "calendars"
    FILES = "files"


AREA_OF_KIND = {
    Kind.MESSAGE: Area.MAIL,
    Kind.CONTACT: Area.CONTACTS,
    Kind.CONTACT_GROUP: Area.CONTACTS,
    Kind.APPOINTMENT: Area.CALENDARS,
    Kind.TASK: Area.CALENDARS,
    Kind.DOCUMENT: Area.FILES,
}
"""The area an item with content lives in. A folder's own area is in its metadata, key `area`."""

CONTENT_KINDS = frozenset(AREA_OF_KIND)
"""Kinds whose items have a blob."""

SERVER_KINDS = frozenset({Kind.DOMAIN, Kind.COS, Kind.MAILING_LIST})
"""Kinds that belong to no account and are recorded by SmartScan alone."""


class ItemKey(msgspec.Struct, frozen=True, order=True):
    """The address of one item. `account` is empty for domains, cos and mailing lists."""

    account: str
    kind: Kind
    item: str

    def __str__(self) -> str:
        return f"{self.account}/{self.kind}/{self.item}"


def digest_of(content: bytes) -> str:
    """Return the digest that names a content: SHA-256, Base64, `/` written as `,` (44 characters)."""
    return digest_text(hashlib.sha256(content).digest())


def digest_text(sha256: bytes) -> str:
    """Return 32 bytes of SHA-256 in the form that names a blob."""
    return binascii.b2a_base64(sha256, newline=False).decode("ascii").replace("/", ",")


def is_digest(text: str) -> bool:
    """Tell whether a text has the form of a digest."""
    return _DIGEST.match(text) is not None


def file_name_of(identifier: str) -> str:
    """Return a file name for an identifier from outside: itself where harmless, else percent-encoded.

    Never empty, never `.`/`..`, never with a separator, at most 255 bytes: a longer one is cut and ends in
    its SHA-256.
    """
    if _PLAIN.match(identifier) and len(identifier) <= NAME_BYTES_MAX:
        return identifier
    raw = identifier.encode("utf-8", "surrogateescape")
    encoded = "".join(
        chr(byte) if byte in _PLAIN_BYTES and not (place == 0 and byte == ord(".")) else f"%{byte:02X}"
        for place, byte in enumerate(raw)
    )
    if not encoded:
        return "%"
    if len(encoded) <= NAME_BYTES_MAX:
        return encoded
    return encoded[:180] + "%%" + hashlib.sha256(raw).hexdigest()


def name_is_cut(identifier: str) -> bool:
    """Tell whether an identifier's file name had to be cut, so that it can't be read back from it."""
    return len(identifier) > NAME_BYTES_MAX // ENCODED_CHARACTERS_MAX and "%%" in file_name_of(identifier)


def identifier_of(file_name: str) -> str:
    """Return the identifier behind a file name that was not cut: the inverse of `file_name_of`."""
    return "" if file_name == "%" else unquote(file_name, errors="surrogateescape")


def two_digits_of(item: str) -> str:
    """Return the digits that name an item's folder: the last two of a numeric id, else two of its CRC-32."""
    if item.isascii() and item.isdigit():
        return item[-2:].zfill(2)
    return f"{zlib.crc32(item.encode('utf-8', 'surrogateescape')) % 100:02d}"
