"""`backupctl`: read the words, ask the daemon, show the answer, end with the status that says how it went.

Exit statuses are those of the errors (sysexits.h), of the operation that was followed, of the doctor's worst
check, 130 after Ctrl-C and 141 where the reader of the output closed it. With `--json` errors are JSON on the
output as well. Without words, on a terminal, it is a shell of its own (`backupd.cli.shell`). What only some
commands need is imported where they need it: a status comes at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from backupd.cli.ask import Daemon, NotPermitted, Refused, socket_path
from backupd.cli.follow import follow
from backupd.cli.help import help_text
from backupd.cli.page import page_for, page_width, warn
from backupd.cli.show import show
from backupd.cli.text import harmless_json, visible
from backupd.commands import Command
from backupd.control import CoherencyReply, DoctorReply, DoneReply, ErrorReply, OperationReply, Reply, encode
from backupd.errors import BackupdError, DaemonUnreachable, UsageError
from backupd.grammar import Request, parse, split_options
from backupd.parameters import Type, Value, squashed
from backupd.replies import AccountsReply, BlobReply
from backupd.views import EXIT_STATUS_OF_OUTCOME

INPUT_OUTPUT = 74
INTERRUPTED = 130
CLOSED_PIPE = 141
COMPLETE_WORDS = "complete-words"


def main() -> int:
    """Do what the command line says and return the exit status."""
    words = sys.argv[1:]
    if sys.stdout is None:  # it was closed before the start: what is written goes nowhere
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open as long as the process
    try:
        # A terminal that can't show a character gets its escape instead of a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        status = _start(words, os.environ)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        return INTERRUPTED
    except OSError as error:
        warn(f"can't write the output: {error.strerror or error}")
        _forget_output()
        return INPUT_OUTPUT
    return status


def _start(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do one line, complete one, or be a shell."""
    if words and words[0] == COMPLETE_WORDS:
        from backupd.cli.completion import complete_words  # noqa: PLC0415 - see the module's first words

        return complete_words(words[1:], environ)
    if _is_alone(words) and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        from backupd.cli.shell import Shell  # noqa: PLC0415 - see the module's first words

        return Shell(do_line, options=words, environ=environ).run()
    return do_line(words, environ)


def _is_alone(words: Sequence[str]) -> bool:
    """Tell whether there is nothing on the line but options that a whole shell can have."""
    try:
        options, rest, literal = split_options(words)
    except UsageError:
        return False
    return not (rest or literal or options.help or options.version)


def do_line(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what a line says, tell what goes wrong on one line, and return the exit status."""
    try:
        return _run(words, environ)
    except Refused as refused:
        return _failed(refused.reply, words)
    except BackupdError as error:
        reply = ErrorReply(message=error.message, hint=error.hint, exit_status=error.exit_status)
        return _failed(reply, words)


def _run(words: Sequence[str], environ: Mapping[str, str]) -> int:
    options, rest, _ = split_options(words)
    if rest and squashed(rest[0]) == "completion" and not (options.help or options.version):
        from backupd.cli.completion import script  # noqa: PLC0415 - see the module's first words

        sys.stdout.write(script(rest[1:]))
        return 0
    request = parse(words)
    options = request.options
    if options.version:
        from importlib.metadata import version  # noqa: PLC0415 - 20 ms that only this option needs

        sys.stdout.write(f"backupctl {version('backupd')}\n")
        return 0
    if request.command is None:
        sys.stdout.write(help_text(request.topic, width=page_width(sys.stdout)))
        return 0
    if request.command.name == "doctor":
        return _examine(request, request.command, environ)
    daemon = Daemon(socket_path(options.socket, environ), server=options.host)
    if request.command.name == "doCoherencyCheck":
        from backupd.cli import coherency  # noqa: PLC0415 - the engine, which only this command needs

        checked = coherency.checked_here(daemon, request.parameters)
        if checked is not None:
            return _shown(checked, request, request.command)
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
    return EXIT_STATUS_OF_OUTCOME[reply.outcome] if isinstance(reply, DoctorReply) else 0


def _ask(daemon: Daemon, request: Request, command: Command) -> int:
    options = request.options
    parameters = _absolute(command, request.parameters)
    output = str(parameters.pop("output_file", None) or "")
    if "input_file" in parameters:
        from backupd.cli.accounts_file import with_accounts  # noqa: PLC0415 - see the module's first words

        parameters = with_accounts(parameters)
    reply, content = daemon.command(command, parameters)
    if isinstance(reply, BlobReply):
        return _write_content(daemon, reply)
    page = page_for(sys.stdout)
    if isinstance(reply, OperationReply) and (options.sync or options.progress):
        _noted(reply.note, json=options.json)
        try:
            return follow(daemon, reply.operation, page, json=options.json, progress=options.progress)
        except KeyboardInterrupt:
            warn(
                f"the operation goes on; follow it: backupctl backup monitor {visible(reply.operation.uuid)}"
            )
            raise
    written = _write_lists(reply, output, request) if output and isinstance(reply, AccountsReply) else ""
    if options.json:
        sys.stdout.write(harmless_json(content) + "\n")
    else:
        show(reply, command, page)
        sys.stdout.write(written)
    return _ended(reply, json=options.json)


def _shown(reply: CoherencyReply, request: Request, command: Command) -> int:
    """Show what a check found that was made here, and return the status that says whether it is clean."""
    if request.options.json:
        sys.stdout.write(harmless_json(encode(reply)) + "\n")
    else:
        show(reply, command, page_for(sys.stdout))
    return 0 if reply.clean else 1


def _ended(reply: Reply, *, json: bool) -> int:
    """Say what is to be said beside an answer, and return the exit status that it means."""
    if isinstance(reply, DoneReply | OperationReply):
        _noted(reply.note, json=json)
    return EXIT_STATUS_OF_OUTCOME[reply.outcome] if isinstance(reply, DoctorReply) else 0


def _noted(note: str, *, json: bool) -> None:
    if note and not json:
        sys.stdout.flush()
        warn(f"note: {visible(note)}")


def _write_lists(reply: AccountsReply, output: str, request: Request) -> str:
    """Write the lists that were asked for to their file, and return the line that says so."""
    from backupd.cli.accounts_file import write_lists  # noqa: PLC0415 - see the module's first words

    headers = request.parameters["output_headers"]
    assert isinstance(headers, list)
    write_lists(output, reply.accounts, headers)
    return f"{len(reply.accounts):,} accounts written to {visible(output)}\n"


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
    sys.stdout.flush()
    if _wants_json(words):
        sys.stdout.write(harmless_json(encode(reply)) + "\n")
        sys.stdout.flush()
    else:
        hint = f" ({visible(reply.hint)})" if reply.hint else ""
        warn(visible(reply.message) + hint)
    return reply.exit_status


def _wants_json(words: Sequence[str]) -> bool:
    try:
        return split_options(words)[0].json
    except UsageError:
        return "--json" in words


def _forget_output() -> None:
    """Point the output at nothing, so that the interpreter's last flush has nowhere to fail."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
