"""Backups: all that a store keeps, in one file that any engine can take in.

The file is gzip over lines of JSON: a header, the pieces, and a trailer with what was written and its SHA-256. A file
is under its name only when it is whole, and is read to its end before the first piece of it is restored.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from services.chat_store.piece_lines import KINDS, ContentHash, line_of, piece_of
from services.chat_store.snapshot import KeptAppend, Piece
from services.chat_store.store import Upkeep
from shared.config import CannotStartError

FORMAT, FORMAT_VERSION = "prosa chat_store backup", 1
COMPRESSION_LEVEL = 6
LOAD_PIECES, LOAD_BYTES = 500, 4 * 1024 * 1024

Parsed = TypeVar("Parsed")


class BackupError(CannotStartError):
    """The backup cannot be written, trusted or taken in; the message tells an operator why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup is of: the engine it was taken from, and when, ISO 8601."""

    engine: str
    time: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds: pieces by kind, messages, a hash of the content that does not depend on the engine."""

    pieces: dict[str, int]
    messages: int
    content: str
    sha256: str

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.pieces.items())
        return f"{self.messages} messages ({kinds or 'nothing'}); content {self.content}"


class Tally:
    """Counts what goes by, and tells somebody now and then."""

    def __init__(self, tell: Callable[[str], None], *, every: int = 10_000) -> None:
        self._tell = tell
        self._every = every
        self._pieces = Counter[str]()
        self._messages = 0
        self._content = ContentHash()
        self._digest = hashlib.sha256()

    def header(self, line: bytes) -> None:
        """The first line counts in the sum of all."""
        self._digest.update(line)

    def add(self, piece: Piece, line: bytes) -> None:
        """A piece, and its line with its end."""
        self._pieces[KINDS[type(piece)]] += 1
        self._messages += len(piece.said) if isinstance(piece, KeptAppend) else 0
        self._content.add(line.rstrip(b"\n"))
        self._digest.update(line)
        if self._pieces.total() % self._every == 0:
            self._tell(f"{self._pieces['conversation']} conversations, {self._messages} messages")

    def summary(self) -> Summary:
        """Of all that went by."""
        pieces = {kind: self._pieces[kind] for kind in KINDS.values() if self._pieces[kind]}
        return Summary(pieces, self._messages, self._content.hexdigest(), self._digest.hexdigest())


async def write_backup(upkeep: Upkeep, sink: IO[bytes], header: Header, tell: Callable[[str], None]) -> Summary:
    """Writes all that is kept; each conversation as it was at one moment."""
    tally = Tally(tell)
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=COMPRESSION_LEVEL) as lines:
        first = _json_line({"format": FORMAT, "version": FORMAT_VERSION, **asdict(header)})
        tally.header(first)
        lines.write(first)
        async with aclosing(upkeep.dump()) as pieces:
            async for piece in pieces:
                line = line_of(piece) + b"\n"
                tally.add(piece, line)
                lines.write(line)
        lines.write(_json_line(asdict(tally.summary())))
    return tally.summary()


@contextmanager
def appearing_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file for its owner alone that gets its name when the block has ended well; what bore it before is replaced."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise BackupError(f"cannot write {path}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def verify(path: Path, tell: Callable[[str], None]) -> tuple[Header, Summary]:
    """What the backup holds; BackupError unless it is whole, as it was written, and of a version known here."""
    tally, header, told = Tally(tell), None, None
    for line in _lines(path):
        if told is not None:
            raise BackupError(f"{path} goes on after its end")
        if header is None:
            header = _header(path, line)
            tally.header(line)
        elif line.startswith(b"["):
            tally.add(_parsed(path, piece_of, line), line)
        else:
            told = _parsed(path, json.loads, line)
    if header is None or told is None:
        raise BackupError(f"{path} has no end: writing it was cut off")
    if told != asdict(tally.summary()):
        raise BackupError(f"{path} is not as it was written: its content and its sums differ")
    return header, tally.summary()


async def restore(
    upkeep: Upkeep, path: Path, tell: Callable[[str], None], *, into_existing: bool = False
) -> tuple[Header, Summary]:
    """Takes the backup in after it was verified; what the store has already stays, so it can be done again.

    BackupError, with nothing written, unless the backup is whole and the store empty (or `into_existing`).
    """
    header, summary = verify(path, lambda done: tell(f"verified {done}"))
    if not into_existing and not await _is_empty(upkeep):
        raise BackupError(
            "the store is not empty; --into-existing adds what it lacks, after a restore that broke off too"
        )
    tally, waiting, size = Tally(lambda done: tell(f"restored {done}")), list[Piece](), 0
    for line in _lines(path):
        if not line.startswith(b"["):
            continue
        piece = _parsed(path, piece_of, line)
        tally.add(piece, line)
        waiting.append(piece)
        size += len(line)
        if len(waiting) >= LOAD_PIECES or size >= LOAD_BYTES:
            await upkeep.load(waiting)
            waiting, size = [], 0
    await upkeep.load(waiting)
    return header, summary


async def _is_empty(upkeep: Upkeep) -> bool:
    async with aclosing(upkeep.dump()) as pieces:
        return await anext(pieces, None) is None


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as lines:
            yield from lines
    except EOFError as error:
        raise BackupError(f"{path} has no end: writing or copying it was cut off") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BackupError(f"{path} is damaged, or no backup") from error
    except OSError as error:
        raise BackupError(f"cannot read {path}: {error.strerror}") from error


def _parsed(path: Path, parse: Callable[[bytes], Parsed], line: bytes) -> Parsed:
    try:
        return parse(line)
    except ValueError as error:
        # Not in its words: they quote what somebody said.
        raise BackupError(f"{path} is damaged: a line of it cannot be read") from error


def _header(path: Path, line: bytes) -> Header:
    facts = _parsed(path, json.loads, line) if line.startswith(b"{") else {}
    if facts.get("format") != FORMAT:
        raise BackupError(f"{path} is no backup of chat_store")
    if facts.get("version") != FORMAT_VERSION:
        raise BackupError(f"{path} is of version {facts.get('version')}; this release reads version {FORMAT_VERSION}")
    return Header(str(facts.get("engine")), str(facts.get("time")))


def _json_line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, ensure_ascii=False).encode() + b"\n"
