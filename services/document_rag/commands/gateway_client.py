"""The gateway as the commands need it: JSON calls, uploads and event streams, tried again when that is safe."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from services.document_rag.commands.config import CommandConfig

Json = dict[str, Any]

ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
PIECE_BYTES = 256 * 1024
_TIMEOUT = httpx.Timeout(10.0, read=330.0, write=330.0, pool=None)  # a little longer than the gateway gives a stream
_AGAIN = frozenset({408, 429, 502, 503, 504})
_UNAUTHORISED = frozenset({401, 403})
# What breaks a stream tells its gRPC code.
_HTTP_OF_CODE = {4: 504, 5: 404, 7: 403, 8: 429, 14: 503, 16: 401}


@dataclass(eq=False)
class GatewayError(Exception):
    """A call that failed for good. `status` 0: nobody answered. `reason`: that of ErrorInfo, "" without one."""

    status: int
    reason: str
    message: str

    @property
    def concerns_every_call(self) -> bool:
        """Whether the next call would fail as well: the gateway is away, or does not take this key."""
        return self.status == 0 or self.status in _UNAUTHORISED


@dataclass
class Sent:
    """How many bytes of a file have left, for whoever shows it."""

    done: int = 0

    def more(self, count: int) -> None:
        """Adds to it."""
        self.done += count


@dataclass
class GatewayClient:
    """One API key at one gateway."""

    url: str
    http: httpx.AsyncClient = field(repr=False)

    @classmethod
    @asynccontextmanager
    async def opened(cls, config: CommandConfig) -> AsyncIterator[Self]:
        """A client that is closed at the end of the block."""
        headers = {"authorization": f"Bearer {config.key}"}
        async with httpx.AsyncClient(base_url=config.url, headers=headers, timeout=_TIMEOUT) as http:
            yield cls(config.url, http)

    async def get(self, path: str, **query: str | int) -> Json:
        """The answer to a GET."""
        return await self._call("GET", path, params=query)

    async def post(self, path: str, body: Json) -> Json:
        """The answer to a POST that may be sent twice."""
        return await self._call("POST", path, json=body)

    async def upload(self, path: Path, description: Mapping[str, str], sent: Sent) -> Json:
        """Sends a file. The description's request_id makes a second attempt safe."""

        async def pieces() -> AsyncIterator[bytes]:
            sent.done = 0
            with path.open("rb") as file:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    yield piece
                    sent.more(len(piece))

        headers = {"content-type": "application/octet-stream"}
        return await self._call("POST", "/v1/documents:upload", params=description, content=pieces, headers=headers)

    async def events(self, method: str, path: str, body: Json | None = None) -> AsyncIterator[tuple[str, Json]]:
        """Name and payload of each event of a stream, until it is whole. A stream that breaks off is a GatewayError."""
        try:
            async with self.http.stream(method, path, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise _error(response)
                async for name, payload in _events(response):
                    yield name, payload
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._unreached(error) from error
        except httpx.HTTPError as error:
            raise _broken_off() from error

    async def _call(self, method: str, path: str, *, content: Any = None, **parts: Any) -> Json:
        failure = GatewayError(0, "", self.url)
        for attempt in range(ATTEMPTS):
            try:
                response = await self.http.request(method, path, content=content() if content else None, **parts)
            except httpx.HTTPError as error:
                failure, pause = self._unreached(error), 0.0
            else:
                if response.status_code == httpx.codes.OK:
                    return self._answer(response)
                failure, pause = _error(response), _retry_after(response)
                if response.status_code not in _AGAIN:
                    break
            if attempt < ATTEMPTS - 1:
                await asyncio.sleep(max(pause, _backoff(attempt)))
        raise failure

    def _unreached(self, error: httpx.HTTPError) -> GatewayError:
        return GatewayError(0, "", f"{self.url} cannot be reached ({str(error) or type(error).__name__})")

    def _answer(self, response: httpx.Response) -> Json:
        try:
            answer: Json = response.json()
        except ValueError as error:
            raise GatewayError(0, "", f"{self.url} is no gateway: it does not answer in JSON") from error
        return answer


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, Json]]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            payload = json.loads(line.removeprefix("data: "))
            if name == "end":
                return
            if name == "error":
                raise _told(_HTTP_OF_CODE.get(payload.get("code", 0), 500), payload)
            yield name, payload
    raise _broken_off()


def _broken_off() -> GatewayError:
    return GatewayError(httpx.codes.BAD_GATEWAY, "", "the stream broke off")


def _error(response: httpx.Response) -> GatewayError:
    try:
        return _told(response.status_code, response.json())
    except (ValueError, AttributeError):
        return GatewayError(response.status_code, "", f"HTTP {response.status_code} {response.reason_phrase}")


def _told(status: int, payload: Json) -> GatewayError:
    """The google.rpc.Status that every error of the gateway is."""
    details = payload.get("details", [])
    reason = next((str(each["reason"]) for each in details if "reason" in each), "")
    wrong = [f"{each['field']} {each['description']}" for part in details for each in part.get("fieldViolations", [])]
    return GatewayError(status, reason, ": ".join(filter(None, [str(payload.get("message", "")), "; ".join(wrong)])))


def _retry_after(response: httpx.Response) -> float:
    stated = response.headers.get("retry-after", "")
    return min(float(stated), LONGEST_PAUSE_SECONDS) if stated.isdigit() else 0.0


def _backoff(attempt: int) -> float:
    pause: float = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(0.7, 1.3)  # noqa: S311  (jitter, not a secret)
