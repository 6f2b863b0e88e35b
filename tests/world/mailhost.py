"""What users do on a mail host, as changes of its files.

They deliver, flag, move, delete, and write contacts and documents; files change the way mail servers change
them: written in `tmp`, then renamed; flags by renaming.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from pathlib import Path

from tests.world.mailtree import MailTree, make_maildir


class MailHost:
    """The users of a tree."""

    def __init__(self, tree: MailTree) -> None:
        self.tree = tree
        self._numbers = itertools.count(1)

    @property
    def addresses(self) -> list[str]:
        return self.tree.addresses

    def counts(self) -> dict[str, int]:
        """Return how many items of each kind lie in the tree, as a backup should count them."""
        counts: Counter[str] = Counter()
        for path in self.tree.root.rglob("*"):
            if not path.is_file():
                continue
            match path.suffix:
                case _ if path.parent.name in {"cur", "new"}:
                    counts["message"] += 1
                case ".vcf":
                    counts["contact"] += 1
                case ".ics":
                    counts[_calendar_kind(path.read_bytes())] += 1
                case _ if "files" in path.parts:
                    counts["document"] += 1
                case _:
                    counts["account"] += path.name == "account.toml"
        return dict(counts)

    def deliver(self, account: str, content: bytes, folder: str = "INBOX") -> Path:
        """Deliver a message as an LMTP server does; return its file."""
        directory = self.tree.maildir(account, folder)
        name = f"{time.time():.6f}.P{os.getpid()}Q{next(self._numbers)}.host"
        aside = directory / "tmp" / name
        aside.write_bytes(content)
        target = directory / "new" / name
        aside.rename(target)
        return target

    def deliver_text(self, account: str, subject: str, folder: str = "INBOX") -> Path:
        text = (
            f"From: sender@example.org\r\nTo: {account}\r\nSubject: {subject}\r\n"
            f"Message-ID: <{time.time_ns()}@example.org>\r\n\r\nBody of {subject}.\r\n"
        )
        return self.deliver(account, text.encode(), folder)

    def flag(self, path: Path, letters: str) -> Path:
        """Give a message exactly these Maildir flags."""
        base = path.name.partition(":2,")[0]
        target = path.parent.parent / "cur" / f"{base}:2,{letters}"
        path.rename(target)
        return target

    def move(self, path: Path, account: str, folder: str) -> Path:
        directory = self.tree.maildir(account, folder)
        if not (directory / "cur").is_dir():
            make_maildir(directory)
        target = directory / "cur" / (path.name if ":2," in path.name else f"{path.name}:2,")
        path.rename(target)
        return target

    def messages(self, account: str, folder: str = "INBOX") -> list[Path]:
        directory = self.tree.maildir(account, folder)
        return [path for part in ("cur", "new") for path in sorted((directory / part).iterdir())]

    def add_contact(self, account: str, name: str, book: str = "Personal") -> Path:
        number = next(self._numbers)
        content = f"BEGIN:VCARD\r\nVERSION:4.0\r\nUID:live-{number}\r\nFN:{name}\r\nEND:VCARD\r\n"
        return _replace(
            self.tree.account(account) / "contacts" / book / f"live-{number}.vcf", content.encode()
        )

    def add_document(self, account: str, name: str, content: bytes) -> Path:
        return _replace(self.tree.account(account) / "files" / name, content)


def _replace(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(content)
    aside.rename(path)
    return path


def _calendar_kind(content: bytes) -> str:
    """Return what an iCalendar file is: a task where its first component is one."""
    event, task = content.find(b"BEGIN:VEVENT"), content.find(b"BEGIN:VTODO")
    return "task" if task >= 0 and (event < 0 or task < event) else "appointment"
