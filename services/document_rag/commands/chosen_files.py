"""Which files a person means: folders walked, names filtered, each with the source that it is known by."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

READABLE = ("pdf", "docx", "pptx", "xlsx", "html", "htm", "xhtml", "md", "markdown", "txt", "csv", "tsv", "epub")
_READ_BYTES = 1024 * 1024


class SameSourceError(Exception):
    """Two files of one run would be versions of one document: its source, and the two."""


@dataclass(frozen=True, slots=True)
class ChosenFile:
    """A file to be uploaded. Uploads of one source are versions of one document."""

    path: Path
    source: str
    size_bytes: int

    @property
    def name(self) -> str:
        """What the file is called."""
        return self.source.rpartition("/")[2]

    def sha256(self) -> str:
        """Of the bytes as they are now, in hexadecimal."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
        return digest.hexdigest()


def chosen_files(places: Sequence[Path], include: Sequence[str], exclude: Sequence[str]) -> Iterator[ChosenFile]:
    """The files, sorted, each once. FileNotFoundError for a place that is not there; SameSourceError.

    A file named by itself is taken whatever it is called. In folders hidden files are left out, and unless `include`
    says otherwise what has no readable ending. A pattern without a slash is matched with the name, one with a slash
    with the path below the folder. The source of a file is its path from the named folder on, that folder's name first.
    """
    seen: set[Path] = set()
    by_source: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise FileNotFoundError(str(place))
        root = place.resolve()
        for path in [root] if root.is_file() else _below(root, include, exclude):
            if path in seen:
                continue
            seen.add(path)
            source = legible(path.relative_to(root.parent))
            if (other := by_source.setdefault(source, path)) is not path:
                raise SameSourceError(source, legible(other), legible(path))
            yield ChosenFile(path, source, path.stat().st_size)


def legible(path: Path) -> str:
    """The path as people wrote it: what is no UTF-8 comes from a Windows of before."""
    written = os.fsencode(path.as_posix())
    try:
        return written.decode()
    except UnicodeDecodeError:
        return written.decode("cp1252", errors="replace")


def _below(folder: Path, include: Sequence[str], exclude: Sequence[str]) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if _is_wanted(path.relative_to(folder), include, exclude))


def _is_wanted(below: Path, include: Sequence[str], exclude: Sequence[str]) -> bool:
    if any(part.startswith(".") for part in below.parts) or below.name.startswith("~$"):
        return False
    if any(_matches(below, pattern) for pattern in exclude):
        return False
    if include:
        return any(_matches(below, pattern) for pattern in include)
    return below.suffix.lower().removeprefix(".") in READABLE


def _matches(below: Path, pattern: str) -> bool:
    return fnmatch(below.as_posix() if "/" in pattern else below.name, pattern)
