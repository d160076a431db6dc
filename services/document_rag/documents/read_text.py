"""A document's text as the service gets it from the extraction process: what it is, and its chunks in a file.

The service never holds the text of a document, only the slice of chunks that it is working on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from services.document_rag.model import Chunk

CHUNKS_A_SLICE = 256


@dataclass(frozen=True, slots=True)
class ReadText:
    """What was read out of one file.

    `title`: "" when the file names none. `language`: ISO 639-1, "" when it is not clear. `page_count`: 0 when the
    format has no pages; `empty_pages` of them hold no text. `text_sha256` is of the words alone, whatever their case
    and the line breaks between them.
    """

    title: str
    mime_type: str
    language: str
    page_count: int
    empty_pages: int
    char_count: int
    chunk_count: int
    token_count: int
    text_sha256: bytes
    chunks_path: Path

    def slices(self, size: int = CHUNKS_A_SLICE) -> Iterator[list[Chunk]]:
        """The chunks in reading order, `size` at a time; from the beginning each time it is called."""
        with self.chunks_path.open(encoding="utf-8") as file:
            chunks = (Chunk(ordinal, *json.loads(line)) for ordinal, line in enumerate(file))
            while piece := list(islice(chunks, size)):
                yield piece
