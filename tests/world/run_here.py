"""`make run MAIL=/path/to/vmail`: the daemon in the foreground on your own mail.

Everything it writes lies in `.demo/`. It reads the mail and never changes it (only a restore that you ask for
would). Ctrl-C ends it; run it again and it goes on.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(".demo")


def main() -> int:
    root = Path(sys.argv[1]).resolve()
    if not root.is_dir():
        print(f"{root} is no directory; give one that holds <domain>/<user>/Maildir", file=sys.stderr)
        return 66
    HERE.mkdir(mode=0o700, exist_ok=True)
    place = HERE.resolve()
    config = place / "backupd.toml"
    config.write_text(
        f"""[server]
name = "localhost"
backup_path = "{place}/backup"
state_directory = "{place}/state"
[broker]
url = "embedded"
[appserver]
kind = "directory"
root = "{root}"
watch = true
[control]
socket = "{place}/control.sock"
[log]
format = "console"
level = "info"
"""
    )
    print(f"Backing up {root} into {place}/backup. In another terminal, for example:")
    print(f"  export BACKUPD_SOCKET={place}/control.sock")
    print("  .venv/bin/backupctl status")
    print("Ctrl-C ends it; `rm -r .demo` removes the backup.\n", flush=True)
    # The terminal sends Ctrl-C to the daemon as well: it ends cleanly, and this only waits for it.
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen([sys.executable, "-m", "daemon", "--config", str(config)]) as daemon:
        return daemon.wait()


if __name__ == "__main__":
    sys.exit(main())
