"""The main job from end to end on a mail tree made for it: `make demo`.

Starts the real daemon on the embedded broker, follows real file changes, and talks to it with the real
console. Each check says what it claims and what it saw; the last line is the counted verdict, which is also
the exit status. Leaves nothing behind.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.world import mailtree
from tests.world.daemons import Daemon
from tests.world.mailhost import MailHost

ACCOUNTS = 4
MESSAGES_PER_ACCOUNT = 60
SECONDS_PER_CHANGE_MAX = 5.0


class Demo:
    """One run: a tree, a daemon over it, and a list of checks."""

    def __init__(self, daemon: Daemon, root: Path) -> None:
        self.daemon = daemon
        self.root = root
        self.passed = 0
        self.failed = 0

    def check(self, claim: str, holds: bool, seen: str) -> None:
        self.passed += holds
        self.failed += not holds
        print(f"  {'ok  ' if holds else 'FAIL'}  {claim}: {seen}", flush=True)

    def wait_for(self, claim: str, probe: Callable[[], object]) -> object:
        """Wait until a probe gives something; the time it took is part of what the check shows."""
        began = time.monotonic()
        while time.monotonic() - began < SECONDS_PER_CHANGE_MAX:
            if found := probe():
                self.check(claim, True, f"in the history after {time.monotonic() - began:.2f} s")
                return found
            time.sleep(0.05)
        self.check(claim, False, f"not within {SECONDS_PER_CHANGE_MAX} s")
        return None


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="backupd-demo-") as place:
        root = Path(place) / "vmail"
        tree = mailtree.build(
            root, accounts=ACCOUNTS, messages=MESSAGES_PER_ACCOUNT, contacts=5, appointments=8, documents=4
        )
        host = MailHost(tree)
        items = sum(host.counts().values())
        print(f"1. A mail host with {ACCOUNTS} accounts and {items} items, in {root}")
        with Daemon(Path(place), root, module="daemon") as daemon:
            demo = Demo(daemon, root)
            _first_scan(demo, host)
            _live_changes(demo, host)
            _restore_to_a_moment(demo, host)
            _emptied_folder(demo, host)
    took = time.monotonic() - began
    verdict = "PASSED" if not demo.failed else "FAILED"
    total = demo.passed + demo.failed
    print(f"\nVerdict: {verdict}. {demo.passed} of {total} checks hold, {demo.failed} do not; {took:.1f} s.")
    return 0 if not demo.failed else 1


def _first_scan(demo: Demo, host: MailHost) -> None:
    print("2. The first SmartScan reads everything there is")
    verdict = demo.daemon.wait_until_scanned(60)
    demo.check("the scan ended well", verdict["status"] == "successful", verdict["verdict"])
    counts = {one["kind"]: one["items"] for one in demo.daemon.status()["counts"]}
    for kind, expected in host.counts().items():
        demo.check(
            f"{kind} items",
            counts.get(kind, 0) == expected,
            f"{expected} expected, {counts.get(kind, 0)} stored",
        )


def _live_changes(demo: Demo, host: MailHost) -> None:
    print("3. Live changes, each found again in the history of its item")
    account = host.addresses[0]
    path = host.deliver_text(account, "Delivered just now")
    item = demo.wait_for("a delivered message", lambda: demo.daemon.find(account, "Delivered just now"))
    if not isinstance(item, str):
        return
    path = host.flag(path, "FS")
    demo.wait_for(
        "its flags", lambda: "flagged" in demo.daemon.last(account, item)["metadata"].get("flags", [])
    )
    path = host.move(path, account, "Projects")
    demo.wait_for(
        "its move to another folder", lambda: demo.daemon.last(account, item)["folder"] == "Projects"
    )
    path.unlink()
    demo.wait_for("its deletion", lambda: demo.daemon.last(account, item)["deleted"])
    states = demo.daemon.states(account, item)
    demo.check("its whole life", len(states) >= 4, " → ".join(state["change"] for state in states))
    host.add_contact(account, "Contact of the demo")
    demo.wait_for("a new contact", lambda: demo.daemon.find(account, "Contact of the demo", kind="contact"))
    host.add_document(account, "report of the demo.txt", b"first edition\n")
    demo.wait_for("a new document", lambda: demo.daemon.find(account, "report of the demo", kind="document"))


def _restore_to_a_moment(demo: Demo, host: MailHost) -> None:
    print("4. A message goes back to how it was at a past moment")
    account = host.addresses[1]
    path = host.deliver_text(account, "The one that changes")
    content = path.read_bytes()
    item = demo.wait_for("the message", lambda: demo.daemon.find(account, "The one that changes"))
    if not isinstance(item, str):
        return
    moment = _a_moment_later()
    path = host.move(path, account, "Archive")
    path = host.flag(path, "S")
    demo.wait_for(
        "moved and read", lambda: "seen" in demo.daemon.last(account, item)["metadata"].get("flags", [])
    )
    path.unlink()
    demo.wait_for("deleted", lambda: demo.daemon.last(account, item)["deleted"])
    reply = demo.daemon.restore(account, item, date=moment)
    demo.check("the restore", reply["status"] == "successful", reply["verdict"])
    found = [one for one in host.messages(account, "INBOX") if one.read_bytes() == content]
    flags = found[0].name.partition(":2,")[2] if found else "?"
    demo.check(
        "byte-identical, in INBOX, unread",
        len(found) == 1 and flags == "",
        f"{len(found)} file(s), flags {flags!r}",
    )


def _emptied_folder(demo: Demo, host: MailHost) -> None:
    print("5. A folder is emptied, and comes back")
    account = host.addresses[2]
    contents = {path.read_bytes() for path in host.messages(account, "Projects")}
    for path in host.messages(account, "Projects"):
        path.unlink()
    gone = demo.wait_for(
        f"{len(contents)} deletions",
        lambda: (hits := demo.daemon.deleted(account)) and len(hits) >= len(contents) and hits,
    )
    restored = 0
    for item in gone if isinstance(gone, list) else []:
        restored += demo.daemon.restore(account, item)["status"] == "successful"
    back = {path.read_bytes() for path in host.messages(account, "Projects")}
    demo.check(
        "all messages of the folder are back, byte for byte",
        back == contents and restored == len(contents),
        f"{len(contents)} expected, {restored} restored, {len(contents - back)} missing",
    )


def _a_moment_later() -> str:
    time.sleep(0.3)
    moment = datetime.now(UTC).isoformat()
    time.sleep(0.3)
    return moment


if __name__ == "__main__":
    sys.exit(main())
