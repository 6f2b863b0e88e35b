"""The AppServer's storage as this process sees it: there, readable, writable for restores, watchable.

Looks at a sample and for a bounded time, and says at how much. A message is opened read-only and one byte of
it is read, without touching its access time where the owner of the files asks; nothing is changed.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from backupd.appservers.file_trees import COS_DIRECTORY, LISTS_DIRECTORY
from backupd.appservers.naming import shown
from backupd.jobs.doctor import verdict
from backupd.views import CheckView

NAME = "AppServer"
RESTORES_NAME = "restores"
WATCH_NAME = "watch"
SAMPLE_ACCOUNTS = 50
SAMPLE_FOLDERS = 20
LOOK_SECONDS = 2.0
COUNT_SECONDS = 2.0
WATCHES_SHARE_MAX = 0.8
NAMED_MAX = 5
INOTIFY = Path("/proc/sys/fs/inotify/max_user_watches")
_LEAF_LINKS = 2


class MailFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of the mail. `failure` says why nothing could be seen.

    `unreadable` and `read_only` name the first of so many places; `messages` were opened. `folders` are
    directories to watch, `counted_all` tells whether that is all of them; `watches_max` 0: not told.
    """

    root: Path
    failure: str = ""
    accounts: int = 0
    sampled: int = 0
    messages: int = 0
    unreadable: tuple[str, ...] = ()
    unreadable_total: int = 0
    read_only: tuple[str, ...] = ()
    read_only_total: int = 0
    folders: int = 0
    counted_all: bool = True
    watches_max: int = 0


def look_at_mail(root: Path) -> MailFacts:
    """Gather the facts of a mail tree as this user; reads only, for a few seconds at most."""
    try:
        top = _directories(str(root))
    except OSError as error:
        return MailFacts(root=root, failure=error.strerror or str(error))
    sample = _Sample(time.monotonic() + LOOK_SECONDS)
    accounts: list[str] = []
    for domain in top:
        if domain.rpartition("/")[2] in (COS_DIRECTORY, LISTS_DIRECTORY):
            continue
        try:
            accounts += _directories(domain)
        except OSError as error:
            sample.unreadable(domain, error)
    step = max(1, len(accounts) // SAMPLE_ACCOUNTS)
    for account in accounts[::step][:SAMPLE_ACCOUNTS]:
        if sample.is_over:
            break
        sample.look(account)
    folders, counted_all = _count_folders(str(root), time.monotonic() + COUNT_SECONDS)
    return MailFacts(
        root=root,
        accounts=len(accounts),
        sampled=sample.accounts,
        messages=sample.messages,
        unreadable=tuple(sample.named),
        unreadable_total=sample.unreadable_total,
        read_only=tuple(sample.read_only[:NAMED_MAX]),
        read_only_total=len(sample.read_only),
        folders=folders,
        counted_all=counted_all,
        watches_max=_watches_max(),
    )


def judge_mail(facts: MailFacts, *, watch: bool, user: str) -> list[CheckView]:
    """Judge the mail for a user; `watch`: the daemon is to see changes by itself."""
    if facts.failure:
        text = f"{facts.root} can't be listed by {user}: {facts.failure}"
        cure = f"is it mounted, is [appserver] root right? Try: sudo -u {user} ls {facts.root}"
        return [verdict.critical(NAME, text, cure)]
    if not facts.accounts and not facts.unreadable_total:
        text = f"{facts.root} holds no account"
        cure = "is the mail mounted? It lies as <root>/<domain>/<user>/Maildir (docs/directory-layout.md)"
        return [verdict.critical(NAME, text, cure)]
    return [_judge_reading(facts, user), _judge_restores(facts, user), _judge_watch(facts, watch=watch)]


def _judge_reading(facts: MailFacts, user: str) -> CheckView:
    seen = f"{facts.sampled:,} of {facts.accounts:,} accounts looked at, {facts.messages:,} messages opened"
    if facts.unreadable_total:
        text = f"{user} can't read {verdict.some(facts.unreadable, facts.unreadable_total)} ({seen})"
        cure = (
            f"these are not backed up. Let {user} read them: usermod -aG MAILGROUP {user}, "
            "chmod -R g+rX (docs/operations.md: Rights on the mail); then restart the daemon"
        )
        return verdict.critical(NAME, text, cure)
    return verdict.ok(NAME, f"{facts.root} is readable: {seen}")


def _judge_restores(facts: MailFacts, user: str) -> CheckView:
    if facts.read_only_total:
        text = (
            f"{user} can't write {verdict.some(facts.read_only, facts.read_only_total)}: "
            "backups work, restores into them fail"
        )
        cure = "give the group write permission; with systemd add ReadWritePaths= (systemctl edit backupd)"
        return verdict.warning(RESTORES_NAME, text, cure)
    return verdict.ok(RESTORES_NAME, "what was looked at is writable: items can be put back")


def _judge_watch(facts: MailFacts, *, watch: bool) -> CheckView:
    if not watch:
        return verdict.ok(WATCH_NAME, "the AppServer publishes its events itself ([appserver] watch = false)")
    count = (
        f"{facts.folders:,} directories" if facts.counted_all else f"more than {facts.folders:,} directories"
    )
    if not facts.watches_max:
        return verdict.unknown(WATCH_NAME, f"{count} to watch; how many may be, the kernel does not tell")
    text = f"{count} to watch, fs.inotify.max_user_watches is {facts.watches_max:,}"
    wanted = max(1 << 19, 1 << (2 * facts.folders).bit_length())
    cure = f"echo fs.inotify.max_user_watches={wanted} > /etc/sysctl.d/60-backupd.conf; sysctl --system"
    if facts.folders > facts.watches_max:
        return verdict.critical(WATCH_NAME, f"{text}: changes in the others are seen late", cure)
    if facts.folders > facts.watches_max * WATCHES_SHARE_MAX:
        return verdict.warning(WATCH_NAME, f"{text}: that is nearly used up", cure)
    return verdict.ok(WATCH_NAME, text)


class _Sample:
    """What was seen so far."""

    def __init__(self, end: float) -> None:
        self._end = end
        self.accounts = 0
        self.messages = 0
        self.named: list[str] = []
        self.unreadable_total = 0
        self.read_only: list[str] = []

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    def unreadable(self, path: str, error: OSError) -> None:
        """Count what can't be read, and name the first of it; what is gone meanwhile is none."""
        if isinstance(error, FileNotFoundError):
            return
        self.unreadable_total += 1
        if len(self.named) < NAMED_MAX:
            self.named.append(f"{shown(path)} ({error.strerror})")

    def look(self, account: str) -> None:
        """Look into an account: its folders, one message of each, and whether they can be written."""
        self.accounts += 1
        try:
            areas = _directories(account)
        except OSError as error:
            self.unreadable(account, error)
            return
        self._look_writable(account)
        for area in areas:
            if area.endswith("/Maildir"):
                self._look_at_maildir(area)
            else:
                self._list(area)

    def _look_at_maildir(self, maildir: str) -> None:
        hidden = self._list(maildir, hidden=True)
        folders = [maildir, *(path for path in hidden if path.rpartition("/")[2].startswith("."))]
        for folder in folders[:SAMPLE_FOLDERS]:
            if self.is_over:
                return
            for part in ("cur", "new"):
                self._look_at_messages(f"{folder}/{part}")
            if os.path.isdir(f"{folder}/cur"):  # noqa: PTH112 - text serves for many paths
                self._look_writable(f"{folder}/cur")

    def _look_at_messages(self, directory: str) -> None:
        try:
            with os.scandir(directory) as entries:
                first = next((entry for entry in entries if entry.is_file(follow_symlinks=False)), None)
        except OSError as error:
            self.unreadable(directory, error)
            return
        if first is None:
            return
        try:
            _read_one_byte(first.path)
        except OSError as error:
            self.unreadable(first.path, error)
        else:
            self.messages += 1

    def _look_writable(self, directory: str) -> None:
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            self.read_only.append(shown(directory))

    def _list(self, directory: str, *, hidden: bool = False) -> list[str]:
        try:
            return _directories(directory, hidden=hidden)
        except OSError as error:
            self.unreadable(directory, error)
            return []


def _read_one_byte(path: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        descriptor = os.open(path, flags)  # only the owner may ask for an access time that stays
    try:
        os.read(descriptor, 1)
    finally:
        os.close(descriptor)


def _directories(path: str, *, hidden: bool = False) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(
            entry.path
            for entry in entries
            if (hidden or entry.name[0] != ".") and entry.is_dir(follow_symlinks=False)
        )


def _count_folders(root: str, end: float) -> tuple[int, bool]:
    """Return how many directories a tree has, and whether all were counted before the time was up."""
    count, waiting = 0, [root]
    while waiting:
        if time.monotonic() > end:
            return count + len(waiting), False
        directory = waiting.pop()
        count += 1
        with suppress(OSError):
            waiting += _below(directory)
    return count, True


def _below(directory: str) -> list[str]:
    # A directory with two links has no others in it: that spares reading the long ones (not so on Btrfs).
    links = os.stat(directory, follow_symlinks=False).st_nlink  # noqa: PTH116 - text serves for many paths
    return [] if links == _LEAF_LINKS else _directories(directory, hidden=True)


def _watches_max() -> int:
    try:
        return int(INOTIFY.read_text("ascii"))
    except (OSError, ValueError):
        return 0
