"""A file in a request body → the messages of a client-streaming RPC, never more than a piece of it in memory.

The body is the file itself, or multipart/form-data with one file; text fields of the form that stand before the file
describe it like query parameters do.
"""

from collections.abc import AsyncIterator, Mapping
from email.message import Message as MimeMessage
from email.utils import collapse_rfc2231_value

from google.protobuf.message import Message
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from gateway.body import Body
from gateway.http_exchange import HttpExchange
from gateway.routes import Route
from gateway.status import UnsupportedMediaType, malformed
from gateway.transcode import description_of, fill

PIECE_BYTES = 64 * 1024
FORM = "multipart/form-data"
# What curl and browsers say when nobody told them what the file is.
MEANINGLESS_TYPES = frozenset({"", "application/x-www-form-urlencoded", "application/octet-stream"})
MAX_FORM_TEXT_BYTES = 64 * 1024
# Each is read on its own, on the event loop: many tiny ones would keep everybody else waiting.
MAX_FORM_PARTS = 100


async def upload_messages(
    route: Route, variables: Mapping[str, str], exchange: HttpExchange, body: Body
) -> AsyncIterator[Message]:
    """The description with the first piece, then the other pieces; at least one message."""
    first = description_of(route, variables, exchange.query)
    pieces = body.chunks()
    if exchange.media_type == FORM:
        form = _Form(exchange.headers["content-type"], route, first)
        pieces = form.pieces(pieces)
    else:
        _describe(first, "mime_type", exchange.media_type)
    waiting: Message | None = first
    async for piece in _cut(pieces):
        message = waiting if waiting is not None else route.request_class()
        waiting = None
        setattr(message, route.body, piece)
        yield message
    if waiting is not None:
        yield waiting


async def _cut(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of a fair size."""
    kept = bytearray()
    async for piece in pieces:
        kept += piece
        while len(kept) >= PIECE_BYTES:
            yield bytes(kept[:PIECE_BYTES])
            del kept[:PIECE_BYTES]
    if kept:
        yield bytes(kept)


def _describe(message: Message, field: str, value: str) -> None:
    """Fills a field of the description that the contract has and the client left empty."""
    known = field in message.DESCRIPTOR.fields_by_name
    if known and value not in MEANINGLESS_TYPES and not getattr(message, field):
        setattr(message, field, value)


class _Form:
    """Takes the one file out of a form as it comes by."""

    def __init__(self, content_type: str, route: Route, description: Message) -> None:
        boundary = _parameters(content_type, "content-type").get("boundary", "")
        if not boundary or len(boundary) > 200:
            raise UnsupportedMediaType("multipart/form-data without a boundary")
        self._route = route
        self._description = description
        self._file = bytearray()
        self._parts = 0
        self._seen_file = False
        self._in_file = False
        self._text = bytearray()
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[str, str] = {}
        self._name = ""
        self._parser = MultipartParser(
            boundary.encode("latin-1"),
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value_part,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
            },
        )

    async def pieces(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The bytes of the file; MALFORMED_MESSAGE when the form has none, or several."""
        async for raw in body:
            try:
                self._parser.write(raw)
            except (MultipartParseError, UnicodeDecodeError):
                raise malformed("the form is not readable") from None
            if self._file:
                piece, self._file = bytes(self._file), bytearray()
                yield piece
        if self._in_file:
            raise malformed("the form ends in the middle of its file")
        if not self._seen_file:
            raise malformed("the form holds no file")

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MAX_FORM_PARTS:
            raise malformed("the form has too many fields")
        self._headers = {}
        self._text = bytearray()
        self._header_name = self._header_value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check_size(len(self._header_value))

    def _header_ends(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value.decode("utf-8")
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        disposition = _parameters(self._headers.get("content-disposition", ""), "content-disposition")
        self._name = disposition.get("name", "")
        self._in_file = "filename" in disposition
        if not self._in_file:
            return
        if self._seen_file:
            raise malformed("the form holds more than one file")
        self._seen_file = True
        _describe(self._description, "filename", disposition["filename"])
        _describe(self._description, "mime_type", self._headers.get("content-type", "").strip().lower())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._file += data[start:end]
        else:
            self._text += data[start:end]
            self._check_size(len(self._text))

    def _part_ends(self) -> None:
        if self._in_file:
            self._in_file = False
        elif self._seen_file:
            raise malformed("the fields of the form must stand before the file")
        else:
            fill(self._description, {self._name: self._text.decode("utf-8")}, self._route.body)

    @staticmethod
    def _check_size(size: int) -> None:
        if size > MAX_FORM_TEXT_BYTES:
            raise malformed("a field of the form is too long")


def _parameters(value: str, header: str) -> dict[str, str]:
    """The parameters of a MIME header, by name; UnicodeDecodeError for one that is not in the charset it names."""
    message = MimeMessage()
    message[header] = value.replace("\r", "").replace("\n", "")
    found = message.get_params(failobj=[], header=header)
    return {
        name.lower(): value if isinstance(value, str) else collapse_rfc2231_value(value, errors="strict")
        for name, value in found[1:]
    }
