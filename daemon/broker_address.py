"""Where the broker is and how to be let in: the URL, the credentials, the trust, and errors in clear words.

`mqtt://host:port` is plain (1883 where no port is given), `mqtts://host:port` is TLS (8883) and always
verifies the broker's certificate and name, against `ca_file` or the system's authorities. Passwords come
from a file, never from the URL. Files are read anew for every connection, so that a corrected password or
a renewed certificate is picked up without a restart.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import aiomqtt
import msgspec
from paho.mqtt.reasoncodes import ReasonCode

from backupd.errors import ConfigError

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_REFUSALS = {
    "Bad user name or password": "the broker refuses the user name or password",
    "Not authorized": "the broker does not let us in: user name, password or its access list do not fit",
    "Client identifier not valid": "the broker refuses our client identifier",
    "Unsupported protocol version": "the broker does not speak this version of MQTT",
    "Session taken over": "another client with our identifier took the session: is a second daemon running?",
    "Server unavailable": "the broker says that it is unavailable",
    "Server busy": "the broker says that it is busy",
    "Quota exceeded": "the broker says that a quota is exceeded",
    "Server shutting down": "the broker is shutting down",
}


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A broker to connect to. Certificates and the password are read when connecting, not here."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    secret: str | None = None
    """A password that exists in memory only: the embedded broker's."""
    forgets: bool = False
    """Whether it drops what it confirmed to a publisher whose connection breaks: the embedded broker does."""

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        username: str | None = None,
        password_file: Path | None = None,
        ca_file: Path | None = None,
        certificate_file: Path | None = None,
        key_file: Path | None = None,
    ) -> BrokerAddress:
        """Read `mqtt://host[:port]` or `mqtts://host[:port]`. Raises `ConfigError`."""
        hint = "write mqtt://host:port, mqtts://host:port or embedded"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"the broker's URL can't be read: {error}", hint=hint) from error
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ConfigError(f"not a broker: {url!r}", hint=hint, url=url)
        if parts.username is not None or parts.password is not None:
            raise ConfigError("the broker's URL holds credentials", hint="use username and password_file")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigError(f"the broker's URL goes on after the port: {url!r}", hint=hint, url=url)
        tls = parts.scheme == "mqtts"
        if not tls and (ca_file or certificate_file or key_file):
            raise ConfigError("certificates are given, but the URL is not mqtts://", hint=hint, url=url)
        if password_file is not None and username is None:
            raise ConfigError("password_file is given without username", hint="add username")
        return cls(
            host=parts.hostname,
            port=_PORTS[parts.scheme] if port is None else port,
            tls=tls,
            username=username,
            password_file=password_file,
            ca_file=ca_file,
            certificate_file=certificate_file,
            key_file=key_file,
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    def __repr__(self) -> str:
        # The secret never reaches a log.
        return f"BrokerAddress({self})"

    def password(self) -> str | None:
        """Return the first line of the password's file; blocks. Raises `OSError`, `UnicodeDecodeError`."""
        if self.password_file is None:
            return self.secret
        return self.password_file.read_text("utf-8").split("\n", 1)[0].rstrip("\r")

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what to trust, None without TLS; blocks. Raises `OSError` (`ssl.SSLError` is one)."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context


def explained(error: BaseException, address: BrokerAddress) -> str:
    """Return what kept us from the broker, in words an admin can act on."""
    cause = error
    # aiomqtt turns errors of the socket into text; the error itself is still in the context.
    if isinstance(error, aiomqtt.MqttError) and isinstance(error.__context__, OSError):
        cause = error.__context__
    match cause:
        case ssl.SSLCertVerificationError():
            reason = f"the broker's certificate is not trusted: {cause.verify_message}"
        case ssl.SSLError():
            reason = f"TLS failed: {cause}"
        case socket.gaierror():
            reason = f"the host name is unknown: {cause.strerror}"
        case ConnectionRefusedError():
            reason = "nobody listens there (connection refused)"
        case FileNotFoundError() | PermissionError() if cause.filename is not None:
            reason = f"{cause.filename}: {cause.strerror}"
        case UnicodeDecodeError():
            reason = "the password file is not UTF-8"
        case TimeoutError():
            reason = "no answer in time"
        case aiomqtt.MqttCodeError():
            reason = told(cause.rc) if isinstance(cause.rc, ReasonCode) else str(cause)
        case _:
            reason = str(cause) or type(cause).__name__
    return f"{address}: {reason}"


def told(code: ReasonCode) -> str:
    """Return an MQTT reason code in clear words."""
    return _REFUSALS.get(str(code), f"the broker says: {code}")
