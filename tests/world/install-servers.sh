#!/usr/bin/env bash
# The Debian packages of the servers that the integration tests start for themselves, of promtool, which judges metrics
# and alerts, and of the shells and formatters that judge completions and the manual. None is started as a service.
set -euo pipefail
packages=()
command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || packages+=(mosquitto)
[ -x /usr/sbin/dovecot ] && [ -x /usr/lib/dovecot/imap ] && [ -x /usr/lib/dovecot/lmtp ] || packages+=(dovecot-imapd dovecot-lmtpd)
command -v promtool >/dev/null || packages+=(prometheus)
for server in account container object proxy; do
    command -v "swift-$server-server" >/dev/null || packages+=("swift-$server")
done
command -v memcached >/dev/null || packages+=(memcached)
for program in fish zsh mandoc; do
    command -v "$program" >/dev/null || packages+=("$program")
done
command -v groff >/dev/null || packages+=(groff-base)
[ ${#packages[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "not root: the tests that need ${packages[*]} will be skipped" >&2
    exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
