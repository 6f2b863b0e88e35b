"""What a restore of an account makes, a real Dovecot serves as it served the source at that moment."""

from __future__ import annotations

import contextlib
import imaplib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.dovecot import Dovecot, require_dovecot, running_dovecot
from tests.world.daemons import Daemon
from tests.world.mailtree import generated_message
from tests.world.patience import eventually

pytestmark = pytest.mark.server("dovecot-imapd", "dovecot-lmtpd")

SOURCE, COPY = "alice@example.test", "copy@example.test"
FOLDERS = ("INBOX", "Work", "Work/Gr&APw-n", "Work/Gr&APw-n/2026", "&ZeVnLIqe-", "Empty", "Archive/Deep/Er")
"""As IMAP names them: nested, with names that are no ASCII, one in Japanese, an empty one, gaps above one."""
FLAGS = (r"", r"\Seen", r"\Seen \Answered", r"\Flagged urgent", r"\Draft", r"\Seen $Forwarded later urgent")
MESSAGES = 24
SECONDS_PER_DAY = 86_400
BEGAN = 1_500_000_000


class Served(NamedTuple):
    """A message as an IMAP client sees it."""

    folder: str
    flags: frozenset[str]
    date: str
    content: bytes


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Dovecot, Daemon]]:
    """Return a Dovecot, and a daemon that looks at its Maildirs."""
    require_dovecot()
    with contextlib.ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backupd-dr-")))
        here.chmod(0o755)
        dovecot = stack.enter_context(running_dovecot(here, here / "vmail"))
        daemon = stack.enter_context(Daemon(here / "b", dovecot.root))
        daemon.wait_until_scanned()
        eventually("the broker is connected", lambda: daemon.status()["broker"]["connected"])
        yield dovecot, daemon


def mailbox(dovecot: Dovecot, address: str) -> tuple[Counter[Served], set[str]]:
    """Return an account's messages and its folders, by IMAP alone."""
    messages: Counter[Served] = Counter()
    with dovecot.imap(address) as client:
        lines = [line for line in client.list()[1] if isinstance(line, bytes)]
        found = [re.fullmatch(rb'\((.*?)\) "/" "?(.*?)"?', line) for line in lines]
        selectable = {one[2].decode() for one in found if one and rb"\Noselect" not in one[1]}
        for folder in selectable:
            answer, (count, *_) = client.select(f'"{folder}"', readonly=True)
            assert answer == "OK"
            if count == b"0":
                continue
            for part in client.fetch("1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")[1]:
                if not isinstance(part, tuple):
                    continue
                date = re.search(rb'INTERNALDATE "([^"]+)"', part[0])
                assert date is not None
                flags = {flag.decode() for flag in imaplib.ParseFlags(part[0])} - {r"\Recent"}
                messages[Served(folder, frozenset(flags), date[1].decode(), part[1])] += 1
    return messages, selectable


def fill(dovecot: Dovecot) -> None:
    """Make folders, and append messages with flags, keywords and dates, as a client does."""
    with dovecot.imap(SOURCE) as client:
        for folder in FOLDERS[1:]:
            assert client.create(f'"{folder}"')[0] == "OK"
        used = [folder for folder in FOLDERS if folder != "Empty"]
        for number in range(MESSAGES):
            date = imaplib.Time2Internaldate(
                datetime.fromtimestamp(BEGAN + number * SECONDS_PER_DAY * 60, UTC)
            )
            flags = f"({FLAGS[number % len(FLAGS)]})"
            folder = used[number % len(used)]
            assert (
                client.append(f'"{folder}"', flags, date, generated_message(number, seed=5, size=900))[0]
                == "OK"
            )


def spoil(dovecot: Dovecot) -> None:
    """Change everything that can be changed: flags, places, folders."""
    with dovecot.imap(SOURCE) as client:
        client.select("INBOX")
        client.store("1:*", "+FLAGS", r"(\Deleted)")
        client.expunge()
        client.select("Work")
        client.store("1:*", "FLAGS", r"(\Flagged else)")
        client.select('"&ZeVnLIqe-"')
        client._simple_command("MOVE", "1:*", "INBOX")
        client.select("INBOX")
        assert client.rename('"Work/Gr&APw-n"', "Fields")[0] == "OK"
        assert client.delete("Empty")[0] == "OK"


def test_dovecot_serves_what_was_restored_as_it_served_the_source(world: tuple[Dovecot, Daemon]) -> None:
    """The same bytes, flags, keywords, folders and INTERNALDATEs, although all has changed since."""
    dovecot, daemon = world
    fill(dovecot)
    messages, folders = mailbox(dovecot, SOURCE)
    assert messages.total() == MESSAGES
    assert set(FOLDERS) <= folders

    def recorded() -> bool:
        hits = daemon.search(
            SOURCE, search_filter="not_deleted", raw_metadata=True, type="message", limit=100
        )
        tags = sum(len(hit["metadata"].get("tags", ())) for hit in hits)
        known = {hit["folder"] for hit in daemon.search(SOURCE, type="folder", search_filter="not_deleted")}
        return len(hits) == MESSAGES and tags == 16 and {"Empty", "日本語", "Work/Grün/2026"} <= known

    eventually("all is recorded", recorded)
    time.sleep(0.3)
    moment = datetime.now(UTC)
    time.sleep(0.3)
    spoil(dovecot)
    assert mailbox(dovecot, SOURCE)[0] != messages
    ended = daemon.run(
        "backup/doRestoreOnNewAccount",
        source_account=SOURCE,
        destination_account=COPY,
        date=moment.isoformat(),
    )
    assert ended["status"] == "successful", ended
    restored, made = mailbox(dovecot, COPY)
    assert (messages - restored, restored - messages) == (Counter(), Counter())
    assert made == folders
    with dovecot.imap(COPY) as client:
        assert client.append("INBOX", r"(\Seen)", None, b"Subject: It can be used\r\n\r\n")[0] == "OK"
        assert client.create("New")[0] == "OK"
