"""The requests to a bucket: blocking calls of any thread, sent by one asynchronous client in its own thread.

Every request has a deadline, at most `requests_max` are under way at a time, each is counted in the tally,
and none is tried a second time here: that is `retrying`'s. Errors are typed by `s3_errors`. The client reads
no configuration of the machine (profiles, credential files): the settings are all there is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import ssl
import threading
from contextlib import AsyncExitStack
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError

from backupd.errors import BackupdError, VolumeError
from backupd.volumes.counting import Tally
from backupd.volumes.failures import VolumeBusy, VolumeUnreachable
from backupd.volumes.loop_thread import LoopThread
from backupd.volumes.s3_errors import EXPECTED, TRANSPORT_ERRORS, told_answer, told_transport
from backupd.volumes.s3_settings import S3Settings

READ_AT_ONCE_BYTES = 1 << 20
"""Content up to this size is read as a whole with the request; longer one as its reader asks for it."""
STREAMS_MAX = 32
STREAM_SECONDS_MAX = 60.0
PROOFS = {
    "put_object": "ETag",
    "get_object": "ETag",
    "upload_part": "ETag",
    "create_multipart_upload": "UploadId",
    "complete_multipart_upload": "ETag",
    "list_objects_v2": "IsTruncated",
}
"""What every store says in an answer to these: a success without it comes from somebody else."""
Answer = dict[str, Any]


class S3Body:
    """The rest of an answer that is read bit by bit; whoever has it closes it, once or more often."""

    def __init__(self, client: S3Client, stream: Any) -> None:
        self._client = client
        self._stream = stream
        self._open = True

    def read(self) -> bytes:
        """Return the next bytes, about `READ_AT_ONCE_BYTES`; none at the end. Raises `VolumeError`."""
        return self._client.read(self._stream)

    def close(self) -> None:
        """Give the connection back, or up if there is more to read."""
        if self._open:
            self._open = False
            self._client.release(self._stream)


class S3Client:
    """Requests to one bucket."""

    def __init__(self, settings: S3Settings, tally: Tally) -> None:
        self.settings = settings
        self._tally = tally
        self._requests = threading.BoundedSemaphore(settings.requests_max)
        self._streams = threading.BoundedSemaphore(STREAMS_MAX)
        self._stack = AsyncExitStack()
        self._connecting = asyncio.Lock()
        self._client: Any = None
        self._thread = LoopThread(f"volume {settings.place}", self._stack.aclose)

    def call(self, operation: str, *, sent: int = 0, **parameters: Any) -> Answer:
        """Make one request that carries `sent` bytes and return the answer.

        `operation` is the client's method, e.g. "put_object"; the bucket is added. Raises `VolumeError`,
        `SpaceExhausted`.
        """
        return self.wait(self.submit(operation, sent=sent, **parameters))

    def submit(
        self, operation: str, *, sent: int = 0, **parameters: Any
    ) -> concurrent.futures.Future[Answer]:
        """Begin a request as `call` does, once there is room for it; `wait` ends it."""
        return self._begin(self._request, operation, sent, parameters)

    def wait(self, future: concurrent.futures.Future[Answer]) -> Answer:
        """Return the answer to a request that `submit` began."""
        return self._thread.wait(future)

    def get(self, **parameters: Any) -> tuple[Answer, bytes, S3Body | None]:
        """Ask for content: the answer, and either all of it or a body to read it from."""
        if not self._streams.acquire(timeout=STREAM_SECONDS_MAX):
            raise VolumeBusy(f"{STREAMS_MAX} contents are being read from {self.settings.place} already")
        body: S3Body | None = None
        try:
            answer, content, stream = self._thread.wait(self._begin(self._get, parameters))
            body = S3Body(self, stream) if stream is not None else None
        finally:
            if body is None:
                self._streams.release()
        return answer, content, body

    def read(self, stream: Any) -> bytes:
        """Return the next bytes of a content."""
        return self._thread.wait(self._thread.submit(self._read, stream))

    def release(self, stream: Any) -> None:
        """Close a content."""
        self._streams.release()
        try:
            self._thread.wait(self._thread.submit(_close, stream))
        except VolumeError:
            return  # the client itself was closed, and the connection with it

    def close(self) -> None:
        """End requests under way (they raise `VolumeClosed`) and the client; waits a bounded time."""
        self._thread.close()

    def _begin(self, function: Any, *arguments: Any) -> concurrent.futures.Future[Any]:
        self._requests.acquire()
        try:
            future = self._thread.submit(function, *arguments)
        except BaseException:
            self._requests.release()
            raise
        future.add_done_callback(lambda _: self._requests.release())
        return future

    async def _request(self, operation: str, sent: int, parameters: dict[str, Any]) -> Answer:
        try:
            async with asyncio.timeout(self.settings.seconds_for(sent)):
                answer: Answer = await self._ask(operation, parameters)
        except (ClientError, *TRANSPORT_ERRORS) as error:
            raise self._told(error, operation) from error
        self._tally.count("", sent=sent)
        return answer

    async def _get(self, parameters: dict[str, Any]) -> tuple[Answer, bytes, Any]:
        try:
            async with asyncio.timeout(self.settings.request_seconds):
                answer = await self._ask("get_object", parameters)
            stream = answer.pop("Body")
            size = answer.get("ContentLength", 0)
            if size > READ_AT_ONCE_BYTES:
                return answer, b"", stream
            try:
                async with asyncio.timeout(self.settings.seconds_for(size)):
                    content: bytes = await stream.read()
            finally:
                stream.close()
        except (ClientError, *TRANSPORT_ERRORS) as error:
            raise self._told(error, "get_object") from error
        self._tally.count("", received=len(content))
        return answer, content, None

    async def _read(self, stream: Any) -> bytes:
        chunks: list[bytes] = []
        missing = READ_AT_ONCE_BYTES
        try:
            async with asyncio.timeout(self.settings.seconds_for(READ_AT_ONCE_BYTES)):
                while missing > 0 and (chunk := await stream.read(missing)):
                    chunks.append(chunk)
                    missing -= len(chunk)
        except TRANSPORT_ERRORS as error:
            raise self._told(error, "get_object") from error
        content = b"".join(chunks)
        self._tally.count("", received=len(content))
        return content

    async def _ask(self, operation: str, parameters: dict[str, Any]) -> Answer:
        client = await self._connected()
        self._tally.count(operation)
        answer: Answer = await getattr(client, operation)(Bucket=self.settings.bucket, **parameters)
        if (proof := PROOFS.get(operation)) and proof not in answer:
            raise VolumeUnreachable(
                f"{self.settings.place} answered {operation} with success, but without {proof}",
                hint="something on the way (a proxy, a login page) answers in the store's place",
                operation=operation,
            )
        return answer

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._client is None:
                _check_ca_file(self.settings)
                client = await self._stack.enter_async_context(_client_of(self.settings))
                client.meta.events.register_last("before-call.s3", _send_at_once)
                self._client = client
        return self._client

    def _told(self, error: Exception, operation: str) -> BackupdError:
        settings = self.settings
        if isinstance(error, ClientError):
            told = told_answer(error, operation, settings.bucket, settings.place)
        else:
            told = told_transport(error, operation, settings.place)
        if not isinstance(told, EXPECTED):
            self._tally.count_error(told)
        return told


_NOTHING_OF_THE_MACHINE = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
"""Per variable of the client: its key in files, in the environment, its default, its conversion."""


def _check_ca_file(settings: S3Settings) -> None:
    """Raise `VolumeError` for a CA file that can't be used, which would look like an outage later."""
    if settings.ca_file is None:
        return
    try:
        ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "it holds no certificate"
        raise VolumeError(
            f"the CA file {settings.ca_file} can't be used: {reason}",
            permanent=True,
            hint="name a readable file with certificates in PEM form",
            path=str(settings.ca_file),
        ) from error


def _client_of(settings: S3Settings) -> Any:
    return AioSession(session_vars=_NOTHING_OF_THE_MACHINE).create_client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint or None,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret.revealed,
        verify=str(settings.ca_file) if settings.ca_file else None,
        config=AioConfig(
            signature_version={"V4": "s3v4", "V2": "s3"}[settings.signature_version],
            s3={"addressing_style": "path" if settings.path_style else "virtual"},
            connect_timeout=settings.connect_seconds,
            read_timeout=settings.read_seconds,
            max_pool_connections=settings.requests_max + STREAMS_MAX,
            retries={"total_max_attempts": 1, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
            user_agent_extra="backupd",
        ),
    )


def _send_at_once(params: dict[str, Any], **_: object) -> None:
    """Send bodies without asking first: that costs a round trip, and who does not answer it is waited for."""
    params["headers"].pop("Expect", None)


async def _close(stream: Any) -> None:
    stream.close()
