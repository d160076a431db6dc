"""Runs the extraction process over one untrusted file and judges how it ended.

The process gets no environment (so no secret), no input, a bounded output and a wall clock.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.document_rag.documents.read_text import ChunkSize, ReadText
from services.document_rag.model import DocumentEmpty, DocumentUnreadable

_MAX_OUTCOME_BYTES = 64 * 1024


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

    DocumentUnreadable for the damaged, hostile or unsupported; DocumentEmpty for no text.
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
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        env={"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), "PYTHONUTF8": "1"},
    )
    try:
        async with asyncio.timeout(wall_seconds):
            output = await _bounded_output(process)
            await process.wait()
    except TimeoutError as error:
        raise DocumentUnreadable("reading the document takes too long") from error
    finally:
        await _end(process)
    return _judged(process.returncode, output)


async def _bounded_output(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise RuntimeError("the extraction process was started without its output")
    output = b""
    while piece := await process.stdout.read(_MAX_OUTCOME_BYTES):
        output += piece
        if len(output) > _MAX_OUTCOME_BYTES:
            raise DocumentUnreadable("the document could not be read")
    return output


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())


def _judged(return_code: int | None, output: bytes) -> dict[str, Any]:
    if return_code is None or return_code < 0:
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
