"""The extraction process: `python -m services.document_rag.documents.extraction [--filename …] [--mime-type …] FILE`.

Reads one untrusted file under limits that it sets on itself before it looks at a byte, and writes one JSON object to
its standard output. A bomb or an endless loop ends this process, not the service (sandbox.py watches it).
"""

import argparse
import io
import json
import resource
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from services.document_rag.documents.readers import (
    MAX_TEXT_CHARACTERS,
    Extracted,
    UnreadableError,
    decoded,
    read_docx,
    read_html,
    read_markdown,
    read_pdf,
    read_text,
)

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
TEXT = "text/plain"

READERS: dict[str, Callable[[bytes], Extracted]] = {
    PDF: read_pdf,
    DOCX: read_docx,
    HTML: read_html,
    MARKDOWN: read_markdown,
    TEXT: read_text,
}
_MAX_FILE_BYTES = 64 * 1024 * 1024
_WRITTEN_AS_MARKDOWN = frozenset({DOCX, HTML, MARKDOWN})


def main() -> None:
    """Reads the file named on the command line; the outcome, good or bad, is the JSON on standard output."""
    arguments = _arguments()
    _limit_self(arguments.memory_bytes, arguments.cpu_seconds)
    try:
        outcome = extract(Path(arguments.file).read_bytes(), arguments.filename, arguments.mime_type)
    except UnreadableError as error:
        outcome = {"error": "DOCUMENT_UNREADABLE", "message": str(error)}
    except MemoryError:
        outcome = {"error": "DOCUMENT_UNREADABLE", "message": "reading the document takes too much memory"}
    except Exception as error:  # a parser's own bug on hostile input; the class name is all that is told
        outcome = {"error": "DOCUMENT_UNREADABLE", "message": f"the document is damaged ({type(error).__name__})"}
    sys.stdout.write(json.dumps(outcome))


def extract(content: bytes, filename: str, mime_type: str) -> dict[str, object]:
    """The outcome as written to standard output: text, or `error` and `message`."""
    kind = type_of(content, filename, mime_type)
    title, pages = READERS[kind](content)
    if sum(len(text) for _, text in pages) > MAX_TEXT_CHARACTERS:
        raise UnreadableError(f"the document has more than {MAX_TEXT_CHARACTERS:,} characters of text")
    if not any(letter.isalnum() for _, text in pages for letter in text):
        return {"error": "DOCUMENT_EMPTY", "message": _emptiness(kind)}
    title = " ".join(title.split())[:500]
    return {"title": title, "mime_type": kind, "is_markdown": kind in _WRITTEN_AS_MARKDOWN, "pages": pages}


def type_of(content: bytes, filename: str, mime_type: str) -> str:
    """The media type: what the content shows, else what the client says, else the file name's ending, else text."""
    if b"%PDF-" in content[:1024]:
        return PDF
    if content.startswith(b"PK\x03\x04"):
        return _zip_type(content)
    if content.startswith((b"\xd0\xcf\x11\xe0", b"{\\rtf")):
        raise UnreadableError("old Word and RTF files are not supported; save the document as DOCX or PDF")
    opening = decoded(content[:2048] if len(content) % 2 == 0 else content[:2047]).lstrip().lower()
    if opening.startswith(("<!doctype html", "<html")) or ("<html" in opening and "<?xml" in opening):
        return HTML
    if mime_type in (HTML, MARKDOWN):
        return mime_type
    ending = filename.lower().rsplit(".", 1)[-1]
    return {"html": HTML, "htm": HTML, "xhtml": HTML, "md": MARKDOWN, "markdown": MARKDOWN}.get(ending, TEXT)


def _zip_type(content: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if "word/document.xml" in archive.namelist():
                return DOCX
    except zipfile.BadZipFile as error:
        raise UnreadableError("the archive is damaged") from error
    raise UnreadableError("this is an archive, not a document of a supported type")


def _emptiness(kind: str) -> str:
    if kind == PDF:
        return "the PDF holds no text: it is probably a scan; run text recognition (OCR) on it first"
    return "the document holds no text"


def _limit_self(memory_bytes: int, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--filename", default="")
    parser.add_argument("--mime-type", default="")
    parser.add_argument("--memory-bytes", type=int, default=1 << 30)
    parser.add_argument("--cpu-seconds", type=int, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    main()
