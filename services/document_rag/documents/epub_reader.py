"""Reader of EPUB: the chapters in reading order, as Markdown."""

import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from services.document_rag.documents.archives import open_archive, parsed, read_part
from services.document_rag.documents.decoding import on_one_line
from services.document_rag.documents.extracted import Extracted, Page, UnreadableError
from services.document_rag.documents.readers import html_text

_CONTAINER = "META-INF/container.xml"
_RIGHTS = "META-INF/rights.xml"
_HTML = frozenset({"application/xhtml+xml", "text/html"})


def read_epub(path: Path) -> Extracted:
    """Chapter by chapter; an EPUB has no pages. UnreadableError for one under a rights lock."""
    archive = open_archive(path, "EPUB")
    if _RIGHTS in archive.namelist():
        raise UnreadableError("the EPUB is locked by its seller (DRM)")
    root = parsed(read_part(archive, _CONTAINER, "EPUB")).find(".//{*}rootfile")
    place = root.get("full-path", "") if root is not None else ""
    package = parsed(read_part(archive, place, "EPUB"))
    title = package.find(".//{*}title")
    chapters = {
        item.get("id", ""): posixpath.normpath(posixpath.join(posixpath.dirname(place), unquote(item.get("href", ""))))
        for item in package.iterfind(".//{*}manifest/{*}item")
        if item.get("media-type") in _HTML and "nav" not in item.get("properties", "").split()
    }
    order = [mark.get("idref", "") for mark in package.iterfind(".//{*}spine/{*}itemref")]
    name = on_one_line(title.text or "") if title is not None else ""
    return Extracted(name, _pages(archive, [chapters[each] for each in order if each in chapters]))


def _pages(archive: zipfile.ZipFile, places: list[str]) -> Iterator[Page]:
    with archive:
        for place in places:
            _, text = html_text(read_part(archive, place, "EPUB"))
            yield Page(0, text)
