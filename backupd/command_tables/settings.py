"""Modules `config` and `scheduler`: reading and changing attributes, and when jobs run."""

from __future__ import annotations

from backupd.command import Command, CommandKind
from backupd.command_tables.shared import ACCOUNT, ATTRIBUTE, SERVER
from backupd.parameters import Parameter, Type
from backupd.schedules import JOBS, ScheduledJob

_COS = Parameter("cos", Type.TEXT, "name or id of the class of service")
_DOMAIN = Parameter("domain", Type.TEXT, "name of the domain")
_VALUE = Parameter("value", Type.TEXT, "the new value")
_INHERITED = Parameter("show_inherited", Type.BOOLEAN, "also print inherited values", default=True)
_ONE_OR_ALL = Parameter("attribute", Type.TEXT, "name of the attribute; left out: all of them")

_LEVELS: dict[str, tuple[Parameter, ...]] = {
    "global": (),
    "server": (SERVER,),
    "cos": (_COS,),
    "domain": (_DOMAIN,),
    "account": (ACCOUNT,),
}
_LEVEL_WORDS = {
    "global": "for all servers",
    "server": "for this server",
    "cos": "for a class of service",
    "domain": "for a domain",
    "account": "for an account",
}


def _config_rows() -> tuple[Command, ...]:
    """Return `config get|set|unset|dump <level>` and `config info`; the older word order is a spelling."""
    rows = []
    for level, subject in _LEVELS.items():
        verbs = (
            ("get", subject, (_ONE_OR_ALL,), (), "print attributes", CommandKind.QUERY, "config"),
            ("set", (*subject, ATTRIBUTE, _VALUE), (), (), "set an attribute", CommandKind.SETTING, "done"),
            (
                "unset",
                (*subject, ATTRIBUTE),
                (),
                (),
                "let an attribute inherit its value again",
                CommandKind.SETTING,
                "done",
            ),
            (
                "dump",
                subject,
                (),
                (_INHERITED,),
                "print all attributes with their values",
                CommandKind.QUERY,
                "config",
            ),
        )
        rows += [
            Command(
                module="config",
                name=f"{verb} {level}",
                spellings=(f"{level} {verb}",),
                positional=positional,
                trailing=trailing,
                optional=optional,
                meaning=f"{meaning}, {_LEVEL_WORDS[level]}",
                kind=kind,
                replies=(reply,),
            )
            for verb, positional, trailing, optional, meaning, kind, reply in verbs
        ]
    info = Command(
        module="config",
        name="info",
        positional=(ATTRIBUTE,),
        meaning="tell what an attribute means, its type, range, default and levels",
        kind=CommandKind.QUERY,
        replies=("attribute",),
    )
    return (*rows, info)


_TARGET = Parameter(
    "target_server", Type.TEXT, "name or id of this server", default="local", spellings=("server",)
)
_TIMES = (
    Parameter("enabled", Type.BOOLEAN, "whether it runs by itself; left out: as it was"),
    Parameter("pattern", Type.TEXT, 'cron pattern in local time, such as "0 4 * * *"; left out: as it was'),
)


def _scheduler_rows(job: ScheduledJob) -> tuple[Command, ...]:
    """Return `scheduler <job> get|set global|server`."""
    rows = []
    for level, target in (("global", ()), ("server", (_TARGET,))):
        words = _LEVEL_WORDS[level]
        rows += [
            Command(
                module="scheduler",
                name=f"{job.name} get {level}",
                optional=target,
                meaning=f"tell when this runs, {words}: {job.meaning}",
                kind=CommandKind.QUERY,
                replies=("schedules",),
            ),
            Command(
                module="scheduler",
                name=f"{job.name} set {level}",
                optional=(*_TIMES, *target),
                meaning=f"say when this runs, {words}: {job.meaning}",
                kind=CommandKind.SETTING,
                replies=("done",),
            ),
        ]
    return tuple(rows)


ROWS = (*_config_rows(), *(row for job in JOBS for row in _scheduler_rows(job)))
"""The rows."""
