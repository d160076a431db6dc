"""A long text in pieces that each can be read by themselves."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.chat_store.limits import BODY_CHUNK_BYTES

_CONTINUES = 0b1000_0000
_MARK = 0b1100_0000


async def text_chunks(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[tuple[int, str], None]:
    """The UTF-8 in other pieces: each at most BODY_CHUNK_BYTES, none ends within a character, with its offset."""
    offset, rest = 0, b""
    async with aclosing(pieces) as stored:
        async for piece in stored:
            rest += piece
            while len(rest) > BODY_CHUNK_BYTES:
                border = _border(rest)
                yield offset, rest[:border].decode()
                offset, rest = offset + border, rest[border:]
    if rest:
        yield offset, rest.decode()


def _border(text: bytes) -> int:
    """The last beginning of a character that is at most BODY_CHUNK_BYTES in."""
    border = BODY_CHUNK_BYTES
    while text[border] & _MARK == _CONTINUES:
        border -= 1
    return border
