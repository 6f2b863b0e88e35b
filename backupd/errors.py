"""Operating errors: what went wrong in the world, told so that an admin can act.

Each error carries a message, the facts it was made from, a hint (what to do) and the exit status a command
ends with. Bugs are not errors in this sense: they are plain exceptions and crash the process. Exit statuses
follow sysexits.h: 64 usage, 66 no input, 69 unavailable, 74 input/output, 75 try later, 77 permission, 78
config.
"""

from __future__ import annotations

from typing import ClassVar


class BackupdError(Exception):
    """An operating error with a message, a hint and facts for the log."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(BackupdError):
    """A command, parameter or value that does not exist or does not fit; the hint names what is valid."""

    exit_status = 64


class ConfigError(BackupdError):
    """The configuration file can't be used."""

    exit_status = 78


class UnknownAccount(BackupdError):
    """No account of this name or id is in the backup."""

    exit_status = 66


class UnknownEntry(BackupdError):
    """No domain, COS or mailing list of this name or id is in the backup."""

    exit_status = 66


class UnknownItem(BackupdError):
    """The account has no item of this id, or the item had no state at the asked moment."""

    exit_status = 66


class BackupPathRefused(BackupdError):
    """The Backup Path must not be used: another server's, locked, read-only, of a newer format, and so on."""

    exit_status = 78


class CorruptJournal(BackupdError):
    """A journal record before the tail does not check; the message names file and offset.

    `resume_after` is the sequence after which reading can go on; what stood between is a gap.
    """

    exit_status = 74

    def __init__(self, message: str, *, resume_after: int = 0, hint: str = "", **facts: object) -> None:
        super().__init__(message, hint=hint, resume_after=resume_after, **facts)
        self.resume_after = resume_after


class CorruptHistory(BackupdError):
    """A history can't be read as a JSON array of states; the message names file and offset."""

    exit_status = 74


class CorruptBlob(BackupdError):
    """A blob does not decompress or its digest differs from its name."""

    exit_status = 74


class BlobMissing(BackupdError):
    """No blob of this digest rests on the volume."""

    exit_status = 74


class VolumeError(BackupdError):
    """A volume can't do what was asked; trying again can't help where `permanent`."""

    exit_status = 74

    def __init__(self, message: str, *, permanent: bool = False, hint: str = "", **facts: object) -> None:
        super().__init__(message, hint=hint, **facts)
        self.permanent = permanent


class SpaceExhausted(BackupdError):
    """Too little free space to take anything new; intake pauses until there is more."""

    exit_status = 75


class NotAnEvent(BackupdError):
    """A message that is no valid event; `reason` is a stable snake_case word for metrics and logs."""

    exit_status = 65

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AppServerUnavailable(BackupdError):
    """The AppServer can't be reached or its storage can't be read; worth trying again later."""

    exit_status = 69


class AppServerRefused(BackupdError):
    """The AppServer was reached and will not do this (unknown account, no such folder, not supported)."""

    exit_status = 1


class ContentChanged(AppServerRefused):
    """The item is not as it was examined any more: whoever wants to replace its content looks again."""


class ItemVanished(BackupdError):
    """The item was gone from the AppServer when it was to be read."""

    exit_status = 66


class SuspiciousListing(BackupdError):
    """A listing lost so much of what the backup knows that it is not believed unless forced."""

    exit_status = 1


class OperationStopped(BackupdError):
    """The operation was asked to stop and did, at a safe place."""

    exit_status = 2


class DaemonUnreachable(BackupdError):
    """Nobody answers on the control socket."""

    exit_status = 69
