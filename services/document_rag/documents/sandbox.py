"""Runs the extraction process over one untrusted file and judges how it ended.

The process gets no environment (so no secret), no input, a bounded output and a wall clock.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from services.document_rag.documents.extracted import ChunkSize
from services.document_rag.documents.read_text import ReadText
from services.document_rag.model import DocumentEmpty, DocumentUnreadable
from shared.errors import Unavailable

_MAX_OUTCOME_BYTES = 64 * 1024
# With which whoever stops the service may stop its children, too; a file causes none of them.
_TOLD_TO_END = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


@dataclass(frozen=True, slots=True)
class ExtractionLimits:
    """What one document may cost to read, and how it is cut."""

    memory_bytes: int = 1 << 30
    cpu_seconds: int = 120
    wall_seconds: float = 180.0
    chunk: ChunkSize = field(default_factory=ChunkSize)


@asynccontextmanager
async def reading(path: Path, filename: str, mime_type: str, limits: ExtractionLimits) -> AsyncIterator[ReadText]:
    """The text of the file, cut; its chunks are there until the end of the block.

    DocumentUnreadable for the damaged, hostile or unsupported; DocumentEmpty for no text. Unavailable when somebody
    ended the process.
    """
    with tempfile.NamedTemporaryFile(prefix="prosa-chunks-") as chunks:
        outcome = await _outcome(_command(path, Path(chunks.name), filename, mime_type, limits), limits.wall_seconds)
        digest = bytes.fromhex(outcome.pop("text_sha256"))
        yield ReadText(**outcome, text_sha256=digest, chunks_path=Path(chunks.name))


def _command(path: Path, chunks: Path, filename: str, mime_type: str, limits: ExtractionLimits) -> list[str]:
    return [
        *(sys.executable, "-m", "services.document_rag.documents.extraction"),
        *("--memory-bytes", str(limits.memory_bytes), "--cpu-seconds", str(limits.cpu_seconds)),
        *("--chunk-tokens", str(limits.chunk.tokens), "--overlap-tokens", str(limits.chunk.overlap_tokens)),
        *(f"--filename={filename}", f"--mime-type={mime_type}", f"--chunks={chunks}"),
        *("--", str(path)),
    ]


async def _outcome(command: list[str], wall_seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryFile() as output:
        process = await asyncio.to_thread(_started, command, output)
        ended = asyncio.create_task(asyncio.to_thread(process.wait))
        try:
            async with asyncio.timeout(wall_seconds):
                await asyncio.shield(ended)
        except TimeoutError as error:
            raise DocumentUnreadable("reading the document takes too long") from error
        finally:
            if not ended.done():
                _kill(process)
                await asyncio.shield(ended)
        output.seek(0)
        return _judged(process.returncode, output.read(_MAX_OUTCOME_BYTES))


def _started(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Not by the event loop, whose fork() runs gRPC's handlers: they crash the child while other threads use gRPC."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), "PYTHONUTF8": "1"},
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _judged(return_code: int, output: bytes) -> dict[str, Any]:
    if -return_code in _TOLD_TO_END:
        raise Unavailable("the process that read the document was told to end", dependency="extraction")
    if return_code < 0:
        raise DocumentUnreadable("reading the document takes more memory or time than is allowed")
    if return_code > 0:  # it answers for every document with 0: this is no fault of the file's
        raise RuntimeError(f"the extraction process does not run (exit code {return_code})")
    outcome: dict[str, Any] = json.loads(output)
    match outcome.get("error"):
        case None:
            return outcome
        case "DOCUMENT_EMPTY":
            raise DocumentEmpty(outcome["message"])
        case _:
            raise DocumentUnreadable(outcome["message"])
