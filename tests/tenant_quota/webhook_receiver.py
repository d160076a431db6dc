"""A webhook's own side: a real HTTP server that keeps what it is sent and answers as it is told."""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    def is_signed_with(self, secret: str) -> bool:
        """As the specification verifies: any of the signatures, in constant time."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        given = [each.split(",", 1) for each in self.headers["webhook-signature"].split(" ")]
        return any(version == "v1" and hmac.compare_digest(wanted, value) for version, value in given)


@dataclass
class Receiver:
    """What came, and what is answered; `answers` are taken in turn, the last one for ever. None answers nothing."""

    port: int = 0
    answers: list[int | None] = field(default_factory=lambda: [200])
    received: list[Received] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}/hook"

    async def wait_for(self, count: int, within_seconds: float = 30.0) -> list[Received]:
        """The first `count` requests."""
        async with asyncio.timeout(within_seconds):
            while len(self.received) < count:
                self.news.clear()
                await self.news.wait()
        return self.received

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {}
        for line in head[1:-2]:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.received.append(Received(head[0].split(" ")[1], headers, body))
        self.news.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await reader.read()
            return
        location = f"location: {self.url()}elsewhere\r\n" if 300 <= answer < 400 else ""
        writer.write(f"HTTP/1.1 {answer} X\r\n{location}content-length: 2\r\n\r\nok".encode())
        await writer.drain()


@asynccontextmanager
async def receiving(*answers: int | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver that listens inside the block."""
    receiver = Receiver(answers=list(answers) or [200])
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
