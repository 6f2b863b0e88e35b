"""Object stores for tests: moto in a process of its own, quick and with conditional puts and object lock.

moto does not compare the checksums that a request carries with its body, as every real store does; a layer
before it here does, so that bytes damaged on the way are refused. `python -m tests.world.stores PORT` is
that process. What all stores of the tests share is `Store`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from backupd.secret import Secret
from backupd.volumes.counting import Tally
from backupd.volumes.s3_client import S3Client
from backupd.volumes.s3_settings import S3Settings
from tests.world.brokers import free_port

START_SECONDS_MAX = 30.0
BUCKET = "backups"


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """A running object store: where, and who may use it."""

    url: str
    access_key: str
    secret: Secret
    port: int

    def settings(self, **facts: Any) -> S3Settings:
        """Return settings for a bucket there; any of them can be given."""
        known = {"bucket": BUCKET, "endpoint": self.url, "access_key": self.access_key, "secret": self.secret}
        return S3Settings(**(known | facts))

    def make_bucket(self, name: str = BUCKET, **parameters: Any) -> None:
        with self.directly(bucket=name) as client:
            client.call("create_bucket", **parameters)

    @contextlib.contextmanager
    def directly(self, **facts: Any) -> Iterator[S3Client]:
        """Give a client to ask the store itself, past every volume."""
        client = S3Client(self.settings(**facts), Tally())
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def running_moto(place: Path) -> Iterator[Store]:
    """Start moto with an empty bucket; end it afterwards."""
    port = free_port()
    with (place / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.world.stores", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
    try:
        wait_until_open(port, process, place / "moto.log")
        store = Store(
            url=f"http://127.0.0.1:{port}", access_key="backupd", secret=Secret("any secret"), port=port
        )
        store.make_bucket()
        yield store
    finally:
        end([process])


def wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once a port answers. Raises `AssertionError` with the log if its process ends or is slow."""
    give_up = time.monotonic() + START_SECONDS_MAX
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < give_up, log.read_text(errors="replace")
        time.sleep(0.02)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End process groups, politely first."""
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def comparing_checksums(application: Callable[..., Any]) -> Callable[..., Any]:
    """Return a WSGI application that refuses bodies that are not what their checksums say."""

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        sha256 = hashlib.sha256(body).digest()
        given = {
            "HTTP_CONTENT_MD5": md5,
            "HTTP_X_AMZ_CHECKSUM_SHA256": base64.b64encode(sha256).decode(),
            "HTTP_X_AMZ_CONTENT_SHA256": sha256.hex(),
        }
        wrong = [name for name, right in given.items() if environ.get(name, right) not in (right, UNSIGNED)]
        if wrong:
            start_response("400 Bad Request", [("Content-Type", "application/xml")])
            return [b"<Error><Code>BadDigest</Code><Message>the body is not what was sent</Message></Error>"]
        return application(environ, start_response)

    return checked


UNSIGNED = "UNSIGNED-PAYLOAD"


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415 - a second to import
    from werkzeug.serving import WSGIRequestHandler, run_simple  # noqa: PLC0415 - only in this process

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: object) -> None:
            """Say nothing of requests that go well."""

    application = comparing_checksums(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    main()
