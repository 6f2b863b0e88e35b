#!/usr/bin/env bash
# make-venv.sh PYTHON VENV: the locked environment with this project in it; what is there and fits is kept.
# Debian ships Python's venv module apart: as root it is installed.
set -euo pipefail
python=$1 venv=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "backupd needs Python 3.11 or newer; $python is $("$python" --version 2>&1)" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "Python's venv module is missing: install the package python3-venv" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv
fi
[ -x "$venv/bin/python" ] || "$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install -q --require-hashes -r requirements.lock
# A service runs as its own user, who can't reach a Python that lies in somebody's home.
real=$(readlink -f "$venv/bin/python")
if [ "$venv" != .venv ] && [ "$(id -u)" = 0 ] && ! setpriv --reuid 65534 --regid 65534 --clear-groups "$real" -c '' 2>/dev/null; then
    echo "warning: other users can't run $real, so no service can: make install PYTHON=/usr/bin/python3 VENV=$venv (after rm -r $venv)" >&2
fi
# Here the project is used as it stands in this folder; elsewhere (a service) it is copied, and needs this folder no more.
editable=(-e .)
[ "$venv" = .venv ] || editable=(--force-reinstall .)
"$venv/bin/python" -m pip install -q --no-deps --no-build-isolation "${editable[@]}"
