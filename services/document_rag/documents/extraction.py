"""The extraction process: `python -m services.document_rag.documents.extraction --chunks CHUNKS [options] FILE`.

Reads and cuts one untrusted file under limits that it sets on itself before it sees a byte. The chunks go to a file;
what they are of, or what is wrong with the document, is the JSON object on standard output. A bomb or an endless loop
ends this process, not the service (sandbox.py watches it).
"""

import argparse
import errno
import hashlib
import json
import resource
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from services.document_rag.documents import file_types
from services.document_rag.documents.chunking import cut
from services.document_rag.documents.extracted import PAGE_BREAK, ChunkSize, Extracted, Page, UnreadableError
from services.document_rag.documents.language import LanguageVote
from services.document_rag.documents.readers import MAX_TEXT_CHARACTERS, too_long

# Only the reader that is needed is loaded: their libraries are most of what this process weighs.
_READERS = {
    file_types.PDF: ("pdf_reader", "read_pdf"),
    file_types.DOCX: ("office_readers", "read_docx"),
    file_types.PPTX: ("office_readers", "read_pptx"),
    file_types.XLSX: ("office_readers", "read_xlsx"),
    file_types.EPUB: ("epub_reader", "read_epub"),
    file_types.HTML: ("readers", "read_html"),
    file_types.MARKDOWN: ("readers", "read_markdown"),
    file_types.CSV: ("readers", "read_csv"),
    file_types.TEXT: ("readers", "read_text"),
}
_WITHOUT_MARKDOWN = frozenset({file_types.PDF, file_types.TEXT})
_MAX_TITLE_CHARACTERS = 1_000
_MAX_WRITTEN_BYTES = 512 * 1024 * 1024


@dataclass(slots=True)
class _Tally:
    """What is to be known of the whole text, gathered while its pages go by."""

    vote: LanguageVote = field(default_factory=LanguageVote)
    digest: Any = field(default_factory=hashlib.sha256)
    characters: int = -len(PAGE_BREAK)
    numbered: int = 0
    empty: int = 0

    def passing(self, pages: Iterable[Page]) -> Iterator[Page]:
        for page in pages:
            self.characters += len(PAGE_BREAK) + len(page.text)
            if self.characters > MAX_TEXT_CHARACTERS:
                raise too_long()
            self.numbered += page.number > 0
            self.empty += page.number > 0 and not page.text.strip()
            self.vote.hear(page.text)
            self.digest.update(
                "".join(f"{word} " for word in _normalised(page.text).split()).encode("utf-8", "replace")
            )
            yield page


def main() -> None:
    """Reads the file named on the command line; the outcome, good or bad, is the JSON on standard output."""
    arguments = parsed_arguments()
    _limit_self(arguments.memory_bytes, arguments.cpu_seconds)
    sys.stdout.write(json.dumps(outcome_of(arguments)))


def outcome_of(arguments: argparse.Namespace) -> dict[str, object]:
    """What was read, or `error` and `message`: whatever the file is, there is an outcome."""
    try:
        return _extracted(arguments)
    except UnreadableError as error:
        return _unreadable(str(error))
    except MemoryError:
        return _unreadable("reading the document takes too much memory")
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return _unreadable("the document unpacks to far more text than is allowed")
    except Exception as error:  # a parser's own bug on hostile input; the class name is all that is told
        return _unreadable(f"the document is damaged ({type(error).__name__})")


def _extracted(arguments: argparse.Namespace) -> dict[str, object]:
    path = Path(arguments.file)
    kind = file_types.type_of(path, arguments.filename, arguments.mime_type)
    extracted = _read(kind, path)
    tally = _Tally()
    size = ChunkSize(arguments.chunk_tokens, arguments.overlap_tokens)
    chunk_count = token_count = 0
    with Path(arguments.chunks).open("w", encoding="utf-8") as file:
        for chunk in cut(tally.passing(extracted.pages), size, is_markdown=kind not in _WITHOUT_MARKDOWN):
            file.write(json.dumps(chunk) + "\n")
            chunk_count += 1
            token_count += chunk.tokens
    if chunk_count == 0:
        return {"error": "DOCUMENT_EMPTY", "message": _emptiness(kind)}
    return {
        "title": " ".join(extracted.title.split())[:_MAX_TITLE_CHARACTERS],
        "mime_type": kind,
        "language": tally.vote.language,
        "page_count": tally.numbered,
        "empty_pages": tally.empty,
        "char_count": tally.characters,
        "chunk_count": chunk_count,
        "token_count": token_count,
        "text_sha256": tally.digest.hexdigest(),
    }


def _read(kind: str, path: Path) -> Extracted:
    module, function = _READERS[kind]
    reader = getattr(import_module(f"services.document_rag.documents.{module}"), function)
    extracted: Extracted = reader(path)
    return extracted


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _emptiness(kind: str) -> str:
    if kind == file_types.PDF:
        return "the PDF holds no text: it is probably a scan; run text recognition (OCR) on it first"
    return "the document holds no text"


def _unreadable(message: str) -> dict[str, object]:
    return {"error": "DOCUMENT_UNREADABLE", "message": message}


def _limit_self(memory_bytes: int, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_WRITTEN_BYTES, _MAX_WRITTEN_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def parsed_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What this process was told, or would be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--chunks", required=True)
    parser.add_argument("--filename", default="")
    parser.add_argument("--mime-type", default="")
    parser.add_argument("--chunk-tokens", type=int, default=200)
    parser.add_argument("--overlap-tokens", type=int, default=25)
    parser.add_argument("--memory-bytes", type=int, default=1 << 30)
    parser.add_argument("--cpu-seconds", type=int, default=60)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
