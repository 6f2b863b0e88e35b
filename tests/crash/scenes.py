"""Scenes around the lives of a victim: what a power cut leaves, and what users and admins do meanwhile."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from backupd import events
from backupd.items import ItemKey, Kind, digest_of
from backupd.store import layout
from tests.crash import verdict
from tests.crash.stream import ACCOUNTS
from tests.crash.victim import Victim
from tests.world import mailtree
from tests.world.mailhost import MailHost

QUARANTINE_BYTES = 8 << 20
TORN_BYTES = 5


def say_nonsense(victim: Victim) -> None:
    """Publish something that is no event of ours."""
    key = ItemKey("anna", Kind.MESSAGE, "nonsense")
    victim.mouth.say([(events.topic_of(victim.server_id, key), b'{"specversion": "1.0"')])


def fill_quarantine(victim: Victim) -> None:
    """Let the quarantine file reach its bound, so that the next message rotates it."""
    with (victim.daemon.place / "state" / "quarantine.jsonl").open("ab") as file:
        file.truncate(QUARANTINE_BYTES)


def remove_index(victim: Victim) -> None:
    """Remove the index while no daemon runs."""
    for path in victim.backup_path.glob("index.sqlite*"):
        path.unlink()


def tear_journal(victim: Victim, dice: random.Random) -> None:
    """Leave the beginning of a record behind the journal's last one, as a power cut does."""
    newest = max((victim.backup_path / "journal").glob("*.journal"))
    record = bytes((200, 0, 0, 0)) + dice.randbytes(4) + b'{"sequence":' + b"9" * 60
    with newest.open("ab") as file:
        file.write(record[: dice.randrange(1, len(record))])


def tear_history(victim: Victim) -> bool:
    """Cut the end of a history that no checkpoint covers yet; return whether there was one."""
    with verdict.opened(victim.backup_path, victim.server_id) as store:
        cursor = store.index.cursor()
        for key in victim.story.told:
            last, _ = store.histories.last(key)
            if last is not None and last.transaction > cursor:
                directory, name = layout.history_place(key)
                path = store.layout.root / directory / name
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size - TORN_BYTES)
                return True
    return False


class Mailboxes:
    """A mail tree below a victim, and the verdict over what scans and restores made of it."""

    def __init__(self, root: Path, *, accounts: int, messages: int) -> None:
        self.tree = mailtree.build(root, accounts=accounts, messages=messages, size=900)
        self.host = MailHost(self.tree)
        self._delivered = 0

    def deliver(self, count: int) -> list[Path]:
        """Deliver fresh messages, each with a text of its own."""
        paths = []
        for _ in range(count):
            self._delivered += 1
            account = self.host.addresses[self._delivered % len(self.host.addresses)]
            paths.append(self.host.deliver_text(account, f"fresh {self._delivered}."))
        return paths

    def contents(self) -> Counter[str]:
        """Return the digests of all messages in the tree."""
        return Counter(
            digest_of(path.read_bytes())
            for address in self.host.addresses
            for path in self.tree.account(address).glob("Maildir/**/*")
            if path.is_file() and path.parent.name in {"cur", "new"}
        )

    def judge(self, victim: Victim) -> None:
        """Assert that every message of the tree is recorded once, and nothing else as living."""
        with verdict.opened(victim.backup_path, victim.server_id) as store:
            wrong = verdict.judge_store(store, victim.place)
            living: Counter[str] = Counter()
            for found in store.histories.walk():
                if found.key.kind is not Kind.MESSAGE or found.key.account in ACCOUNTS:
                    continue
                last = found.states[-1]
                if not last.deleted and last.digest is not None:
                    living[last.digest] += 1
                expected = 2 if last.deleted else 1
                if len(found.states) > expected:
                    wrong.append(f"{found.key} has {len(found.states)} states, {expected} would be right")
            if living != self.contents():
                wrong.append(
                    f"recorded and not in the tree: {living - self.contents()}, "
                    f"in the tree and not recorded: {self.contents() - living}"
                )
        assert not wrong, victim.told("\n".join(wrong[:20]))
