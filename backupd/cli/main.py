"""`backupctl`: read the words, ask the daemon, show the answer, end with the status that says how it went.

Exit statuses are those of the errors (sysexits.h), of the operation that was followed, 130 after Ctrl-C and
141 where the reader of the output closed it. With `--json` errors are JSON on the output as well.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from backupd.cli.ask import Daemon, NotPermitted, Refused, socket_path
from backupd.cli.follow import follow
from backupd.cli.help import help_text
from backupd.cli.page import page_for, warn
from backupd.cli.show import show
from backupd.cli.text import harmless_json, visible
from backupd.commands import Command
from backupd.control import BlobReply, DoctorReply, ErrorReply, OperationReply, Reply, encode
from backupd.errors import BackupdError, DaemonUnreachable
from backupd.grammar import Request, parse
from backupd.parameters import Type, Value

INTERRUPTED = 130
CLOSED_PIPE = 141


def main() -> int:
    """Do what the command line says and return the exit status."""
    words = sys.argv[1:]
    try:
        # A terminal that can't show a character gets its escape instead of a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        status = _run(words, os.environ)
        sys.stdout.flush()
    except Refused as refused:
        return _failed(refused.reply, words)
    except BackupdError as error:
        reply = ErrorReply(message=error.message, hint=error.hint, exit_status=error.exit_status)
        return _failed(reply, words)
    except BrokenPipeError:
        _forget_output()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        return INTERRUPTED
    return status


def _run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    request = parse(words)
    options = request.options
    if options.version:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms that only this option needs

        sys.stdout.write(f"backupctl {version('backupd')}\n")
        return 0
    if request.command is None:
        sys.stdout.write(help_text(request.topic))
        return 0
    if request.command.name == "doctor":
        return _examine(request, request.command, environ)
    daemon = Daemon(socket_path(options.socket, environ), server=options.host)
    return _ask(daemon, request, request.command)


def _examine(request: Request, command: Command, environ: Mapping[str, str]) -> int:
    """Ask the daemon how the set-up is; where none answers, find out without it. Never fails for that."""
    from backupd.cli import doctor  # noqa: PLC0415 - 30 ms that only this command needs

    options = request.options
    given = options.socket or environ.get("BACKUPD_SOCKET")
    if given is None and options.config is not None:
        given = doctor.socket_of(options.config)
    reply: Reply
    try:
        daemon = Daemon(socket_path(given, environ), server=options.host, seconds=doctor.ANSWER_SECONDS)
        reply, content = daemon.command(command, {})
    except (DaemonUnreachable, NotPermitted) as error:
        reply = doctor.diagnose(error, options.config, environ)
        content = encode(reply)
    if options.json:
        sys.stdout.write(harmless_json(content) + "\n")
    else:
        show(reply, command, page_for(sys.stdout))
    return doctor.exit_status_of(reply.outcome) if isinstance(reply, DoctorReply) else 0


def _ask(daemon: Daemon, request: Request, command: Command) -> int:
    options = request.options
    reply, content = daemon.command(command, _absolute(command, request.parameters))
    if isinstance(reply, BlobReply):
        return _write_content(daemon, reply)
    page = page_for(sys.stdout)
    if isinstance(reply, OperationReply) and (options.sync or options.progress):
        try:
            return follow(daemon, reply.operation, page, json=options.json, progress=options.progress)
        except KeyboardInterrupt:
            warn(
                f"the operation goes on; follow it: backupctl backup monitor {visible(reply.operation.uuid)}"
            )
            raise
    if options.json:
        sys.stdout.write(harmless_json(content) + "\n")
    else:
        show(reply, command, page)
    return 0


def _absolute(command: Command, parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters with paths as they are meant from here: the daemon stands elsewhere."""
    paths = {one.name for one in command.parameters if one.type is Type.PATH}
    return {
        name: os.path.abspath(value) if name in paths and isinstance(value, str) else value  # noqa: PTH100 - no link is resolved
        for name, value in parameters.items()
    }


def _write_content(daemon: Daemon, blob: BlobReply) -> int:
    """Write a content's bytes as they are, and nothing else."""
    out = sys.stdout.buffer
    for piece in daemon.blob(blob):
        out.write(piece)
    out.flush()
    return 0


def _failed(reply: ErrorReply, words: Sequence[str]) -> int:
    """Say what went wrong, on one line."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        if "--json" in words:
            sys.stdout.write(harmless_json(encode(reply)) + "\n")
            sys.stdout.flush()
        else:
            hint = f" ({visible(reply.hint)})" if reply.hint else ""
            warn(visible(reply.message) + hint)
    return reply.exit_status


def _forget_output() -> None:
    """Point the output at nothing, so that the interpreter's last flush has nowhere to fail."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
