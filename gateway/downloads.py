"""The messages of a server-streaming RPC → a file, never more than a piece of it in memory.

The first message describes the file in fields of these names, as far as the contract has them: `filename`, `mime_type`,
`size_bytes` and `sha256`. The bytes are in the field that the http rule names as `response_body`.
"""

import re
import unicodedata
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from urllib.parse import quote

from google.protobuf.message import Message

from gateway.byte_ranges import wanted_part
from gateway.http_exchange import HttpExchange
from gateway.routes import Route
from gateway.status import RangeNotSatisfiable

OCTETS = "application/octet-stream"
MAX_NAME_LENGTH = 200
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(; ?charset=[\w-]+)?", re.ASCII)
# What RFC 8187 lets stand unescaped, beside letters and digits and what quote() leaves anyway.
_PLAIN_IN_EXTENDED_VALUE = "!#$&+^`|"
# In the plain name for old clients: what ends or escapes a quoted string, and what some of them would decode.
_AMBIGUOUS = re.compile(r'[^ -~]|["\\%]')


async def send_file(exchange: HttpExchange, route: Route, messages: AsyncIterator[bytes]) -> None:
    """Answers with the file in the messages, or the part of it that is asked for.

    Headers go out with its first bytes, so what fails before can be told. The listener refuses to end a file with more
    or fewer bytes than were announced.
    """
    stream = aiter(messages)
    first = route.response_class.FromString(await anext(stream))
    file = _File(exchange, first)
    if file.is_held_by_client():
        await file.not_modified()
        return
    file.narrow()
    await file.send(getattr(first, route.file_field))
    async for raw in stream:
        await file.send(getattr(route.response_class.FromString(raw), route.file_field))
        if file.part_is_sent:
            break
    await file.finish()


class _File:
    """A file on its way to the client."""

    def __init__(self, exchange: HttpExchange, description: Message) -> None:
        self._exchange = exchange
        self._name: str = getattr(description, "filename", "")
        self._media_type: str = getattr(description, "mime_type", "")
        self._size: int = getattr(description, "size_bytes", 0)
        self._sha256: str = getattr(description, "sha256", "")
        self._part: range | None = None
        self._passed = 0

    def is_held_by_client(self) -> bool:
        """Whether the client says that it has these very bytes."""
        held = [tag.strip().removeprefix("W/") for tag in self._exchange.headers.get("if-none-match", "").split(",")]
        return bool(self._sha256) and (held == ["*"] or self._etag in held)

    async def not_modified(self) -> None:
        await self._exchange.start(304, self._validators())
        await self._exchange.finish()

    def narrow(self) -> None:
        """Keeps to what Range asks for, if If-Range names these bytes. RangeNotSatisfiable when they end before it."""
        headers = self._exchange.headers
        if self._size and headers.get("if-range", self._etag) == self._etag:
            self._part = wanted_part(headers.get("range", ""), self._size)
        if self._part is not None and not self._part:
            raise RangeNotSatisfiable(self._size)

    @property
    def part_is_sent(self) -> bool:
        """Whether what is still to come is wanted no more."""
        return self._part is not None and self._passed >= self._part.stop

    async def send(self, piece: bytes) -> None:
        before, self._passed = self._passed, self._passed + len(piece)
        if self._part is not None:
            piece = piece[max(self._part.start - before, 0) : max(self._part.stop - before, 0)]
        if piece:
            await self._start()
            await self._exchange.part(piece)

    async def finish(self) -> None:
        await self._start()
        await self._exchange.finish()

    async def _start(self) -> None:
        if self._exchange.status:
            return
        part = range(self._size) if self._part is None else self._part
        length = [("content-length", str(len(part)))] if self._size else []
        place = [("content-range", f"bytes {part.start}-{part.stop - 1}/{self._size}")] if self._part else []
        media_type = self._media_type if _MEDIA_TYPE.fullmatch(self._media_type) else OCTETS
        headers = [
            ("content-type", media_type),
            ("content-disposition", content_disposition(self._name)),
            # Should it ever be shown inside a page, its scripts do not run.
            ("content-security-policy", "sandbox"),
            ("accept-ranges", "bytes" if self._size else "none"),
        ]
        await self._exchange.start(206 if self._part else 200, [*headers, *length, *place, *self._validators()])

    def _validators(self) -> list[tuple[str, str]]:
        """By which a copy is known; the service is asked each time whether the caller may still have it."""
        tag = [("etag", self._etag)] if self._sha256 else []
        return [*tag, ("cache-control", "private, no-cache"), ("vary", "Accept")]

    @property
    def _etag(self) -> str:
        return f'"{self._sha256}"'


def content_disposition(name: str) -> str:
    """The header that makes a browser save the file under this name (RFC 6266), whatever the name holds."""
    name = _safe(name)
    if not name:
        return "attachment"
    plain = _AMBIGUOUS.sub("_", _without_accents(name))
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe=_PLAIN_IN_EXTENDED_VALUE)}"
    return f'attachment; filename="{plain}"{extended}'


def _safe(name: str) -> str:
    """The name without what is no text (line ends, what turns the reading direction) and without directories."""
    shown = "".join(letter for letter in name if unicodedata.category(letter)[0] != "C")
    path = PurePosixPath(re.sub(r"[/\\]", "_", shown).strip())
    ending = path.suffix[:MAX_NAME_LENGTH]
    return path.stem[: MAX_NAME_LENGTH - len(ending)] + ending


def _without_accents(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
