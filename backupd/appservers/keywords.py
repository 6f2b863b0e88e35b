"""The keywords of a mail folder, which `dovecot-keywords` gives letters, changed under Dovecot's own lock."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backupd import durable
from backupd.appservers.maildir import KEYWORDS_MAX, read_keywords
from backupd.appservers.writing import owned_like, told_apart
from backupd.errors import AppServerUnavailable

LOCK_SECONDS_MAX = 10.0
LOCK_STALE_SECONDS = 120.0
_KEYWORD = re.compile(r"[^\x00-\x20\x7f(){%*\"\\\]]+\Z")
_HELD_BY = re.compile(rb"(\d{1,19}):([^\x00\n]+)\n?")


def keyword_letters(directory: Path, tags: Any) -> str:
    """Return the letters of keywords, giving new ones a number where there is room; 26 is Maildir's limit."""
    wanted = [tag for tag in tags if isinstance(tag, str) and _KEYWORD.match(tag)]
    known = {name: letter for letter, name in read_keywords(str(directory)).items()}
    if any(tag not in known for tag in wanted):
        with told_apart(directory), _uidlist_lock(directory):
            known = {name: letter for letter, name in read_keywords(str(directory)).items()}
            for tag in wanted:
                free = [
                    chr(ord("a") + n) for n in range(KEYWORDS_MAX) if chr(ord("a") + n) not in known.values()
                ]
                if tag not in known and free:
                    known[tag] = free[0]
            numbered = sorted((ord(letter) - ord("a"), name) for name, letter in known.items())
            path = directory / "dovecot-keywords"
            durable.replace_file(path, "".join(f"{n} {name}\n" for n, name in numbered).encode("utf-8"))
            owned_like(path, directory)
    return "".join(known[tag] for tag in wanted if tag in known)


@contextlib.contextmanager
def _uidlist_lock(directory: Path) -> Iterator[None]:
    """Hold `dovecot-uidlist.lock`, under which Dovecot changes keywords.

    It says who holds it as Dovecot's own do, `process:host`: what a killed process leaves is taken over at
    once, by Dovecot as by us; one that does not say it, or from another host, when it is old.
    """
    lock = directory / "dovecot-uidlist.lock"
    give_up = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            break
        except FileExistsError:
            if _has_no_holder(lock):
                lock.unlink(missing_ok=True)
                continue
            if time.monotonic() > give_up:
                raise AppServerUnavailable(
                    f"the folder {directory.name or 'INBOX'!r} stays locked", path=str(lock)
                ) from None
            time.sleep(0.05)
    try:
        try:
            durable.write_all(descriptor, f"{os.getpid()}:{socket.gethostname()}".encode())
        finally:
            os.close(descriptor)
        durable.step("delivery.locked")
        yield
    finally:
        lock.unlink(missing_ok=True)


def _has_no_holder(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        # Dovecot's own is for its user alone, which need not be ours.
        with contextlib.suppress(FileNotFoundError):
            return time.time() - lock.lstat().st_mtime > LOCK_STALE_SECONDS
        return True
    try:
        if time.time() - os.fstat(descriptor).st_mtime > LOCK_STALE_SECONDS:
            return True
        held = _HELD_BY.fullmatch(os.read(descriptor, 1024))
    finally:
        os.close(descriptor)
    return held is not None and held[2] == socket.gethostname().encode() and not is_alive(int(held[1]))


def is_alive(process: int) -> bool:
    """Tell whether a process on this host lives."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True
