"""What a file is: what its content shows, then what the client says, then the ending of its name, then text."""

import zipfile
from pathlib import Path

from services.document_rag.documents.archives import read_part, refuse_locked
from services.document_rag.documents.decoding import decoded
from services.document_rag.documents.extracted import UnreadableError

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"
HTML = "text/html"
MARKDOWN = "text/markdown"
CSV = "text/csv"
TEXT = "text/plain"

_OPENING_BYTES = 4096
_ZIP = b"PK\x03\x04"
_COMPOUND = b"\xd0\xcf\x11\xe0"
_COMPOUND_DIRECTORY_BYTES = 4 * 1024 * 1024
_SUPPORTED = "PDF, DOCX, PPTX, XLSX, EPUB, HTML, Markdown, CSV and plain text are supported"
# What people upload by mistake, by its first bytes.
_FOREIGN = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"RIFF", "a sound, video or WebP file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a program"),
    (b"ID3", "an MP3 file"),
    (b"OggS", "an Ogg file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"%!PS", "a PostScript file; save it as PDF"),
    (b"{\\rtf", "an RTF file; save it as DOCX or PDF"),
)
_SAID = frozenset({HTML, MARKDOWN, CSV})
_ENDINGS = {
    **dict.fromkeys(("html", "htm", "xhtml"), HTML),
    **dict.fromkeys(("md", "markdown", "mdown"), MARKDOWN),
    **dict.fromkeys(("csv", "tsv"), CSV),
}
_ARCHIVES = {"word/document.xml": DOCX, "ppt/presentation.xml": PPTX, "xl/workbook.xml": XLSX}
_OPEN_DOCUMENT = b"application/vnd.oasis.opendocument"


def type_of(path: Path, filename: str, mime_type: str) -> str:
    """The media type. UnreadableError, saying what the file is, for one that no reader is for."""
    with path.open("rb") as file:
        opening = file.read(_OPENING_BYTES)
    if b"%PDF-" in opening[:1024]:
        return PDF
    if opening.startswith(_ZIP):
        return _archive_type(path)
    if opening.startswith(_COMPOUND):
        raise UnreadableError(_compound_type(path))
    for magic, name in _FOREIGN:
        if opening.startswith(magic) and (len(magic) > 3 or b"\0" in opening):
            raise UnreadableError(f"this is {name}; {_SUPPORTED}")
    if opening[4:8] == b"ftyp":
        raise UnreadableError(f"this is a video, sound or HEIC file; {_SUPPORTED}")
    return _text_type(opening, filename, mime_type.partition(";")[0].strip().lower())


def _text_type(opening: bytes, filename: str, mime_type: str) -> str:
    start = decoded(opening[:2048] if len(opening) % 2 == 0 else opening[:2047]).lstrip().lower()
    if start.startswith(("<!doctype html", "<html")) or ("<html" in start and "<?xml" in start):
        return HTML
    ending = filename.lower().rpartition(".")[2]
    if ending == "pdf" or mime_type == PDF:
        raise UnreadableError("the PDF is damaged: it does not begin like one")
    return mime_type if mime_type in _SAID else _ENDINGS.get(ending, TEXT)


def _archive_type(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_locked(archive, "file")
            names = set(archive.namelist())
            stated = read_part(archive, "mimetype", "file").strip() if "mimetype" in names else b""
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        told = "the file is damaged: it begins like a DOCX, XLSX or other archive, but is none"
        raise UnreadableError(told) from error
    if stated == EPUB.encode():
        return EPUB
    if stated.startswith(_OPEN_DOCUMENT):
        raise UnreadableError(f"this is an OpenDocument file; save it as DOCX, XLSX, PPTX or PDF ({_SUPPORTED})")
    for part, kind in _ARCHIVES.items():
        if part in names:
            return kind
    raise UnreadableError(f"this is an archive, not a document; upload the files in it ({_SUPPORTED})")


def _compound_type(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_COMPOUND_DIRECTORY_BYTES)
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _COMPOUND_DIRECTORY_BYTES))
        content += file.read()
    if "EncryptedPackage".encode("utf-16-le") in content:
        return "the document is locked by a password; save it without one and upload that"
    return "this is an old Word, Excel or PowerPoint file; save it as DOCX, XLSX, PPTX or PDF"
