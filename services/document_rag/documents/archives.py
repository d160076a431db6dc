"""Documents that are zip archives (DOCX, PPTX, XLSX, EPUB), opened only when they are no bomb."""

import zipfile
from pathlib import Path
from typing import Any

from services.document_rag.documents.extracted import UnreadableError

MAX_UNPACKED_BYTES = 512 * 1024 * 1024
MAX_PART_BYTES = 128 * 1024 * 1024
MAX_COMPRESSION_RATIO = 200
MAX_PARTS = 20_000

_SAFE_TO_UNPACK_BYTES = 4 * 1024 * 1024  # whatever the ratio: a small template of blanks is packed a thousandfold
_MARKUP = (".xml", ".rels", ".opf", ".xhtml", ".html", ".htm", ".ncx")
_OPENING_BYTES = 8192
_ENCRYPTED = 0x1


def open_archive(path: Path, kind: str) -> zipfile.ZipFile:
    """The archive, its sizes checked as it declares them (reading beyond them fails). `kind` names it in errors."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UnreadableError(f"the {kind} is damaged: its archive cannot be opened") from error
    try:
        _refuse_bombs(archive, kind)
        _refuse_entities(archive, kind)
    except BaseException:
        archive.close()
        raise
    return archive


def read_part(archive: zipfile.ZipFile, name: str, kind: str) -> bytes:
    """One part, unpacked. UnreadableError when it is missing or damaged."""
    try:
        return archive.read(name)
    except (KeyError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise UnreadableError(f"the {kind} is damaged: its part {name[:100]} cannot be read") from error


def parsed(content: bytes) -> Any:
    """XML without entities, network and depth beyond reason."""
    from lxml import etree  # only three types of document need it

    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, recover=True)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise UnreadableError("the document is damaged: a part of it is no XML") from error
    if root is None:
        raise UnreadableError("the document is damaged: a part of it is no XML")
    return root


def refuse_locked(archive: zipfile.ZipFile, kind: str) -> None:
    """UnreadableError for parts under a password."""
    if any(part.flag_bits & _ENCRYPTED for part in archive.infolist()):
        raise UnreadableError(f"the {kind} is locked by a password; save it without one and upload that")


def _refuse_bombs(archive: zipfile.ZipFile, kind: str) -> None:
    parts = archive.infolist()
    unpacked = sum(part.file_size for part in parts)
    packed = max(1, sum(part.compress_size for part in parts))
    is_bomb = unpacked > max(_SAFE_TO_UNPACK_BYTES, packed * MAX_COMPRESSION_RATIO)
    if len(parts) > MAX_PARTS or unpacked > MAX_UNPACKED_BYTES or is_bomb:
        raise UnreadableError(f"the {kind} unpacks to far more than a document needs")
    if any(part.file_size > MAX_PART_BYTES for part in parts if part.filename.endswith(_MARKUP)):
        raise UnreadableError(f"a part of the {kind} is larger than a document needs")


def _refuse_entities(archive: zipfile.ZipFile, kind: str) -> None:
    """Entity tricks need a declaration, and no program that writes documents makes one."""
    for part in archive.infolist():
        if not part.filename.endswith(_MARKUP):
            continue
        try:
            with archive.open(part) as stream:
                opening = stream.read(_OPENING_BYTES).replace(b"\0", b"")
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
            raise UnreadableError(f"the {kind} is damaged: its part {part.filename[:100]} cannot be read") from error
        if b"<!ENTITY" in opening or (b"<!DOCTYPE" in opening and part.filename.endswith((".xml", ".rels"))):
            raise UnreadableError(f"the {kind} declares XML entities, which no program that writes documents does")
