"""A proxy between a client and an HTTP server that breaks things: late, cut, wrong and lost, by chance.

Every request on every connection is passed on as it is, or struck by one of `FAULTS`, in turn. Headers can be
taken out on the way, which makes a server that knows conditional requests one that ignores them. `answer`
replaces what the server would say. Runs in a thread of its own; ends with the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LATE_SECONDS = 0.02
FAULTS = (
    "late",
    "refused",
    "request cut",
    "request damaged",
    "error 429",
    "error 500",
    "error 503",
    "reply cut",
    "reply damaged",
    "reply lost",
)
"""What may happen to a request; those with a reply happen after the server has done what was asked."""


@dataclass
class Message:
    """A request or a reply: its head line by line, its body whole."""

    first: bytes
    headers: dict[bytes, bytes]
    body: bytes = b""

    def encoded(self) -> bytes:
        lines = [self.first, *(name + b": " + value for name, value in self.headers.items())]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


@dataclass
class FaultProxy:
    """What is to happen, and what has. `answer` is a status and a body given in the server's place.

    It is given to every request, or to those whose first line begins with `answer_to`. With `certificates`
    (of `brokers.make_certificates`) clients must come by TLS.
    """

    upstream: int
    rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    stripped: tuple[bytes, ...] = ()
    seed: int = 1
    answer: tuple[int, bytes] | None = None
    answer_to: bytes = b""
    answer_headers: dict[bytes, bytes] = field(default_factory=dict)
    certificates: Path | None = None
    port: int = 0
    hanging: bool = False
    struck: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self._tls() is None else f"https://localhost:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Listen on a free port while the block runs."""
        self._chance = random.Random(self.seed)
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls()))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever, name="fault proxy", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(server.close)  # a connection that ends closes it there, too
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def _tls(self) -> ssl.SSLContext | None:
        if self.certificates is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificates / "server.crt", self.certificates / "server.key")
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await _read(reader)) is not None:
                upstream = upstream or await asyncio.open_connection("127.0.0.1", self.upstream)
                if not await self._pass(request, writer, *upstream):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of both sides is gone, which is what this is for
        finally:
            for side in (writer, upstream[1] if upstream else None):
                if side is not None:
                    side.transport.abort()

    async def _taken(self) -> None:
        """Count a request; while `hanging`, it is taken and nothing comes of it."""
        self.requests += 1
        if self.hanging:
            await asyncio.Event().wait()

    async def _pass(
        self,
        request: Message,
        client: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> bool:
        """Pass one request on, or strike; tell whether the connection goes on."""
        await self._taken()
        fault = ""
        if self._chance.random() < self.rate:
            fault = self.faults[self.struck.total() % len(self.faults)]
            self.struck[fault] += 1
        for name in self.stripped:
            request.headers.pop(name, None)
        answered = self.answer is not None and request.first.startswith(self.answer_to)
        if answered or fault.startswith("error "):
            client.write(self._error(fault).encoded())
            await client.drain()
            return True
        if fault == "late":
            await asyncio.sleep(LATE_SECONDS)
        elif fault == "refused":
            return False
        elif fault == "request cut":
            whole = request.encoded()
            server.write(whole[: len(whole) * 2 // 3])
            await server.drain()
            return False
        elif fault == "request damaged" and request.body:
            request.body = _damaged(request.body)
        server.write(request.encoded())
        await server.drain()
        reply = await _read(reader, bodiless=request.first.startswith(b"HEAD"))
        if reply is None or fault == "reply lost":
            return False
        if fault == "reply damaged" and reply.body and b"x-amz-meta-sha256" in reply.headers:
            reply.body = _damaged(reply.body)
        whole = reply.encoded()
        cut = fault == "reply cut"
        client.write(whole[: len(whole) - max(1, len(reply.body) // 2)] if cut else whole)
        await client.drain()
        return not cut

    def _error(self, fault: str) -> Message:
        if self.answer is not None:
            status, body = self.answer
        else:
            status, body = int(fault.split()[1]), b"<Error><Code></Code></Error>"
        headers = {b"content-type": b"application/xml", b"content-length": b"%d" % len(body)}
        return Message(b"HTTP/1.1 %d Struck" % status, headers | self.answer_headers, body)


async def _read(reader: asyncio.StreamReader, *, bodiless: bool = False) -> Message | None:
    """Read one message; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    message = Message(first, headers)
    if headers.pop(b"transfer-encoding", b"").lower() == b"chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            message.body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        headers[b"content-length"] = b"%d" % len(message.body)
    elif not bodiless:
        message.body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    return message


def _damaged(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x20]) + body[middle + 1 :]


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
