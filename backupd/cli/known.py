"""What the daemon and the file system know of values: accounts, operations, services, files, for completion.

A completion must never make anybody wait or fail: the daemon has a short time to answer, whatever goes wrong
is no candidates, and an answer is good for some seconds. A name that would mean something to a shell is never
offered: others choose the names of accounts, and what is completed is executed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from backupd.cli.ask import Daemon, Refused
from backupd.cli.candidates import Pair
from backupd.commands import COMMANDS
from backupd.control import BucketsReply, OperationsReply, Reply, ServicesReply, StatusReply
from backupd.errors import BackupdError
from backupd.grammar import complete
from backupd.parameters import Parameter, Type, Value
from backupd.replies import AccountsReply

DAEMON_SECONDS = 0.7
"""How long the daemon may be silent before the completion goes without it."""
FRESH_SECONDS = 10.0
FILES_MAX = 500
_HARMLESS = re.compile(r"[\w@.+/][\w@.+/:,=%-]*\Z")


class Knowledge:
    """Answers what `candidates` asks about the world; an object of it is a `Known`."""

    def __init__(self, daemon: Daemon, files: Callable[[str], Sequence[Pair]]) -> None:
        self._daemon = daemon
        self._files = files
        self._kept: dict[str, tuple[float, list[Pair]]] = {}

    def __call__(self, parameter: Parameter, word: str) -> Sequence[Pair]:
        """Return the values of a parameter that begin as the word does."""
        if parameter.type is Type.PATH:
            return self._files(word)
        for is_meant, title, given, pairs in _QUESTIONS:
            if is_meant(parameter):
                return [one for one in self._pairs(title, given, pairs) if _begins(one[0], word)]
        return ()

    def _pairs(self, title: str, given: dict[str, Value], pairs: Callable[[Reply], list[Pair]]) -> list[Pair]:
        asked, kept = self._kept.get(title, (-FRESH_SECONDS, []))
        if time.monotonic() - asked < FRESH_SECONDS:
            return kept
        command = next(one for one in COMMANDS if one.title == title)
        found: list[Pair] = []
        with suppress(BackupdError, Refused):
            reply, _ = self._daemon.command(command, complete(command, given))
            found = [pair for pair in pairs(reply) if _HARMLESS.match(pair[0])]
        self._kept[title] = (time.monotonic(), found)
        return found


def _begins(value: str, word: str) -> bool:
    return value.casefold().startswith(word.casefold())


def _accounts(reply: Reply) -> list[Pair]:
    if not isinstance(reply, AccountsReply):
        return []
    return [(one.name, "deleted" if one.deleted else one.status) for one in reply.accounts]


def _operations(reply: Reply) -> list[Pair]:
    if not isinstance(reply, OperationsReply):
        return []
    return [(one.uuid, f"{one.type} {one.status.value}") for one in reversed(reply.operations)]


def _services(reply: Reply) -> list[Pair]:
    return [(one.name, one.meaning) for one in reply.services] if isinstance(reply, ServicesReply) else []


def _buckets(reply: Reply) -> list[Pair]:
    if not isinstance(reply, BucketsReply):
        return []
    return [(one.uuid, f"{one.store_type} {one.bucket_name} {one.label}") for one in reply.buckets]


def _server(reply: Reply) -> list[Pair]:
    return [(reply.server_name, reply.server_id)] if isinstance(reply, StatusReply) else []


_QUESTIONS: tuple[
    tuple[Callable[[Parameter], bool], str, dict[str, Value], Callable[[Reply], list[Pair]]], ...
] = (
    (lambda one: one.type is Type.ACCOUNT, "backup getAvailableAccounts", {}, _accounts),
    (lambda one: one.name == "bucket_configuration_id", "core listBuckets", {}, _buckets),
    (lambda one: one.type is Type.UUID, "backup getAllOperations", {"verbose": True}, _operations),
    (lambda one: one.name == "service_name", "backup getServices", {}, _services),
    (lambda one: one.name in {"server", "target_server"}, "backup status", {}, _server),
)
"""Whose values a command tells: which parameters, the command, its parameters, and how its answer is read."""


def files_beginning(word: str) -> list[Pair]:
    """Return the paths that begin as the word does, directories with a slash at their end."""
    directory, _, start = word.rpartition("/")
    place = os.path.expanduser(f"{directory}/" if "/" in word else ".")  # noqa: PTH111 - a word is no path yet
    found: list[Pair] = []
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(start) and (start or not entry.name.startswith(".")):
                path = (f"{directory}/" if "/" in word else "") + entry.name
                found.append((path + "/" if entry.is_dir() else path, ""))
                if len(found) == FILES_MAX:
                    break
    return sorted(one for one in found if one[0].isprintable())
