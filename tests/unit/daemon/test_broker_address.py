"""Where the broker is: URLs, secrets, and errors in words."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from backupd.errors import ConfigError
from daemon.broker_address import BrokerAddress, explained


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://broker", "broker", 1883, False),
        ("mqtts://broker", "broker", 8883, True),
        ("mqtt://127.0.0.1:1884/", "127.0.0.1", 1884, False),
        ("mqtts://[::1]:5", "::1", 5, True),
    ],
)
def test_urls(url: str, host: str, port: int, tls: bool) -> None:
    """Host, port and TLS come from the URL, with the registered ports as defaults."""
    address = BrokerAddress.parse(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)
    assert BrokerAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://broker", "not a broker"),
        ("mqtt://", "not a broker"),
        ("broker:1883", "not a broker"),
        ("mqtt://user:secret@broker", "credentials"),
        ("mqtt://broker/topic", "goes on after the port"),
        ("mqtt://broker:99999", "can't be read"),
        ("mqtt://[::1", "can't be read"),
    ],
)
def test_bad_urls_are_told(url: str, words: str) -> None:
    """What is wrong is named, what is valid hinted at, and a password is not repeated."""
    with pytest.raises(ConfigError, match=words) as caught:
        BrokerAddress.parse(url)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_settings_that_do_not_fit_each_other_are_told(tmp_path: Path) -> None:
    """Certificates without TLS and a password without a user would be ignored silently: they are refused."""
    with pytest.raises(ConfigError, match="not mqtts"):
        BrokerAddress.parse("mqtt://broker", ca_file=tmp_path / "ca.crt")
    with pytest.raises(ConfigError, match="without username"):
        BrokerAddress.parse("mqtt://broker", password_file=tmp_path / "password")


def test_the_password_is_read_each_time_and_never_shown(tmp_path: Path) -> None:
    """A corrected file is picked up; neither the file's nor the memory's secret is in what gets logged."""
    file = tmp_path / "password"
    file.write_text("first word \r\nrest\n")
    address = BrokerAddress.parse("mqtt://broker", username="u", password_file=file)
    assert address.password() == "first word "
    file.write_text("second")
    assert address.password() == "second"
    hidden = BrokerAddress(host="h", port=1, secret="hush")
    assert hidden.password() == "hush"
    assert "hush" not in repr(hidden) + str(hidden)


def test_tls_always_verifies() -> None:
    """There is no way to a context that takes any certificate; plain addresses have none."""
    context = BrokerAddress.parse("mqtts://broker").tls_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert BrokerAddress.parse("mqtt://broker").tls_context() is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "nobody listens there"),
        (socket.gaierror(-2, "Name or service not known"), "host name is unknown"),
        (TimeoutError(), "no answer in time"),
        (FileNotFoundError(2, "No such file or directory", "/x/password"), "/x/password: No such file"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed"),
        (aiomqtt.MqttCodeError(ReasonCode(PacketTypes.CONNACK, "Not authorized")), "does not let us in"),
        (aiomqtt.MqttCodeError(ReasonCode(PacketTypes.CONNACK, "Banned")), "the broker says: Banned"),
        (aiomqtt.MqttError("the broker refuses the subscription"), "refuses the subscription"),
        (OSError(), "OSError"),
    ],
)
def test_errors_in_clear_words(error: Exception, words: str) -> None:
    """Whatever keeps us from the broker says so with the broker's address."""
    told = explained(error, BrokerAddress.parse("mqtt://broker:7"))
    assert told.startswith("mqtt://broker:7: ")
    assert words in told


def test_an_error_of_the_socket_is_found_behind_that_of_the_client() -> None:
    """The client library hides the cause in the context; it is what an admin needs."""
    error = aiomqtt.MqttError("[Errno 111] Connection refused")
    error.__context__ = ConnectionRefusedError(111, "Connection refused")
    assert "nobody listens" in explained(error, BrokerAddress.parse("mqtt://broker"))
