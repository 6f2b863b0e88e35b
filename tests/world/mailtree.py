"""A mail host's storage for tests, demo and bench: N accounts from the corpus or from generated messages.

The layout is that of docs/directory-layout.md. Everything follows from the seed, so that two trees of the
same arguments hold the same bytes; only where times were not given do file times differ.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DOMAIN = "example.test"
FOLDERS = ("INBOX", "Sent", "Projects", "Projects/Apollo", "Trash")
_TEXT = (
    "budget meeting contract garden invoice train harbour letter concert schedule window report bridge "
    "coffee lantern museum quarter river station theatre village weather yellow zebra Müller façade"
)
_WORDS = _TEXT.split()
OLD = 1_600_000_000
"""Seconds since 1970 at which the files of a tree were received, unless told otherwise."""


@dataclass
class MailTree:
    """A tree that was built: its root, its addresses, and the bytes of every file by path below the root."""

    root: Path
    addresses: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)

    def account(self, address: str) -> Path:
        """Return an account's directory."""
        user, _, domain = address.rpartition("@")
        return self.root / domain / user

    def maildir(self, address: str, folder: str = "INBOX") -> Path:
        """Return a mail folder's directory."""
        base = self.account(address) / "Maildir"
        return base if folder == "INBOX" else base / ("." + folder.replace("/", "."))

    def write(self, path: Path, content: bytes, *, at: int = OLD) -> Path:
        """Write one file of the tree with a modification time (seconds)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (at, at))
        self.contents[str(path.relative_to(self.root))] = content
        return path


def make_maildir(directory: Path) -> Path:
    """Make a Maildir++ folder with its three directories."""
    for part in ("cur", "new", "tmp"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    if directory.name.startswith("."):
        (directory / "maildirfolder").touch()
    return directory


def generated_message(number: int, *, seed: int = 1, size: int | None = None) -> bytes:
    """Return one plausible message; every number and seed gives other bytes. `size` is about its bytes."""
    dice = random.Random(f"{seed}/{number}")
    subject = " ".join(dice.choices(_WORDS, k=4))
    length = size if size is not None else min(200_000, int(dice.lognormvariate(7.6, 1.0)))
    words: list[str] = []
    count = 0
    while count < length:
        word = dice.choice(_WORDS)
        words.append(word)
        count += len(word) + 1
    lines = (" ".join(words[at : at + 11]) for at in range(0, len(words), 11))
    head = (
        f"Return-Path: <sender{number % 97}@example.org>\r\n"
        f"Received: from relay.example.org (relay.example.org [192.0.2.{number % 250}])\r\n"
        f"\tby mail.{DOMAIN} with ESMTP id {dice.getrandbits(48):012x};\r\n"
        f"\tMon, 23 Nov 2026 20:{number % 60:02d}:00 +0000\r\n"
        f"From: Sender {number % 97} <sender{number % 97}@example.org>\r\n"
        f"To: user@{DOMAIN}\r\n"
        f"Subject: {subject.encode('ascii', 'replace').decode()} {number}\r\n"
        f"Date: Mon, 23 Nov 2026 20:{number % 60:02d}:00 +0000\r\n"
        f"Message-ID: <{seed}.{number}.{dice.getrandbits(64):016x}@example.org>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 8bit\r\n\r\n"
    )
    return (head + "\r\n".join(lines) + "\r\n").encode()


def generated_contact(number: int) -> bytes:
    """Return one vCard."""
    return (
        f"BEGIN:VCARD\r\nVERSION:4.0\r\nUID:contact-{number}\r\nFN:Person {number}\r\n"
        f"EMAIL:person{number}@example.org\r\nEND:VCARD\r\n"
    ).encode()


def generated_appointment(number: int) -> bytes:
    """Return one iCalendar file: a VTODO for every fourth number, else a VEVENT."""
    part = "VTODO" if number % 4 == 3 else "VEVENT"
    return (
        f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:{part}\r\nUID:event-{number}\r\n"
        f"SUMMARY:Meeting {number}\r\n"
        f"DTSTART:20261124T{number % 24:02d}0000Z\r\nEND:{part}\r\nEND:VCALENDAR\r\n"
    ).encode()


def message_name(number: int, flags: str = "S") -> str:
    """Return a Maildir file name for cur."""
    return f"{OLD + number}.M{number:06d}P1.host:2,{flags}"


def build(
    root: Path,
    *,
    accounts: int,
    messages: int = 0,
    seed: int = 1,
    corpus: Sequence[Path] = (),
    contacts: int = 0,
    appointments: int = 0,
    documents: int = 0,
    size: int | None = None,
) -> MailTree:
    """Build a tree. Each account gets `messages` generated ones, and its share of the corpus files' messages.

    Counts are per account. `size` is about the bytes of each generated message, else they vary as mail does.
    """
    tree = MailTree(root)
    root.mkdir(parents=True, exist_ok=True)
    shares = [list(corpus[number::accounts]) for number in range(accounts)]
    for number in range(accounts):
        address = f"user{number:04d}@{DOMAIN}"
        tree.addresses.append(address)
        numbered = itertools.count(number * 1_000_000)
        for folder in FOLDERS:
            make_maildir(tree.maildir(address, folder))
        fresh = (generated_message(next(numbered), seed=seed, size=size) for _ in range(messages))
        real = (path.read_bytes() for path in shares[number])
        _fill_mail(tree, address, itertools.chain(fresh, real))
        account = tree.account(address)
        tree.write(account / "account.toml", f'cos = "default"\nfull_name = "User {number}"\n'.encode())
        for index in range(contacts):
            tree.write(account / "contacts" / "Personal" / f"c{index}.vcf", generated_contact(index))
        for index in range(appointments):
            tree.write(account / "calendars" / "Work" / f"e{index}.ics", generated_appointment(index))
        for index in range(documents):
            tree.write(account / "files" / "reports" / f"r{index}.txt", generated_message(index, size=500))
    tree.write(root / DOMAIN / "domain.toml", b'description = "for tests"\n')
    tree.write(root / "cos" / "default.toml", b"quota_bytes = 1000000000\n")
    tree.write(root / "lists" / f"all@{DOMAIN}.toml", f'members = ["user0000@{DOMAIN}"]\n'.encode())
    return tree


def _fill_mail(tree: MailTree, address: str, messages: Iterator[bytes]) -> None:
    flags = itertools.cycle(("S", "RS", "FS", "", "S", "PS"))
    for number, content in enumerate(messages):
        folder = FOLDERS[(number * 7 // 3) % len(FOLDERS)] if number % 2 else "INBOX"
        path = tree.maildir(address, folder) / "cur" / message_name(number, next(flags))
        tree.write(path, content, at=OLD + number)
