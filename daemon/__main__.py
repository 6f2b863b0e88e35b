"""`backupd --config FILE`: the daemon in the foreground, as systemd starts it."""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    """Run the daemon; return its exit status: 0 after a clean stop, else that of the error (sysexits.h)."""
    from backupd import __version__  # noqa: PLC0415 - worker processes import this module, and need nothing of it

    parser = argparse.ArgumentParser(prog="backupd", description="Continuous backup of a mail server.")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration, see config/backupd.toml"
    )
    parser.add_argument("--version", action="version", version=f"backupd {__version__}")
    arguments = parser.parse_args()
    # A crash of the interpreter itself (in a library) leaves in the log where each thread was; SIGUSR1 asks.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, chain=False)

    import uvloop  # noqa: PLC0415 - as above

    from backupd.errors import BackupdError  # noqa: PLC0415 - as above
    from daemon.health import Notifier  # noqa: PLC0415 - as above
    from daemon.process import run_process  # noqa: PLC0415 - as above

    try:
        return uvloop.run(run_process(arguments.config, Notifier.from_environment()))
    except BackupdError as error:
        sys.stderr.write(f"backupd: {error}\n")
        return error.exit_status
    except OSError as error:
        # The disk or the file system, while the daemon began: one line, as for any other operating error.
        sys.stderr.write(f"backupd: {error}\n")
        return os.EX_IOERR


if __name__ == "__main__":
    sys.exit(main())
