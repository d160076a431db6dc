"""A long text in pieces: however it is stored, the pieces are whole characters and make up the text."""

from collections.abc import AsyncGenerator

import pytest

from services.chat_store.limits import BODY_CHUNK_BYTES
from services.chat_store.text_chunks import text_chunks


async def stored_in(text: str, piece_bytes: int) -> AsyncGenerator[bytes, None]:
    whole = text.encode()
    for begin in range(0, len(whole), piece_bytes):
        yield whole[begin : begin + piece_bytes]


@pytest.mark.parametrize("piece_bytes", [1000, 65_537, BODY_CHUNK_BYTES, 3 * BODY_CHUNK_BYTES])
@pytest.mark.parametrize("shift", range(4))
async def test_no_piece_ends_within_a_character(piece_bytes: int, shift: int) -> None:
    text = "x" * shift + "𝄞" * (BODY_CHUNK_BYTES // 2) + "é€"
    offset, pieces = 0, list[str]()
    async for begin, piece in text_chunks(stored_in(text, piece_bytes)):
        assert begin == offset
        size_bytes = len(piece.encode())
        assert BODY_CHUNK_BYTES - 4 < size_bytes <= BODY_CHUNK_BYTES or offset + size_bytes == len(text.encode())
        offset += size_bytes
        pieces.append(piece)
    assert "".join(pieces) == text


async def test_nothing_has_no_pieces() -> None:
    assert [each async for each in text_chunks(stored_in("", 10))] == []


async def test_a_reader_who_leaves_frees_what_is_read_from() -> None:
    freed = list[bool]()

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * BODY_CHUNK_BYTES
        finally:
            freed.append(True)

    chunks = text_chunks(pieces())
    await anext(chunks)
    await chunks.aclose()
    assert freed == [True]
