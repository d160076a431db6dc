"""Runs the extraction process over one untrusted file and judges how it ended.

The process gets no environment (so no secret), no input, a bounded output and a wall clock.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from services.document_rag.model import DocumentEmpty, DocumentUnreadable, ExtractedText, Page

_MAX_OUTPUT_BYTES = 64 * 1024 * 1024
_READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ExtractionLimits:
    """What one document may cost to read."""

    memory_bytes: int = 1 << 30
    cpu_seconds: int = 60
    wall_seconds: float = 90.0


async def extract(path: Path, filename: str, mime_type: str, limits: ExtractionLimits) -> ExtractedText:
    """The text of the file. DocumentUnreadable for the damaged, hostile or unsupported; DocumentEmpty for no text."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.document_rag.documents.extraction"),
        *("--memory-bytes", str(limits.memory_bytes), "--cpu-seconds", str(limits.cpu_seconds)),
        *(f"--filename={filename}", f"--mime-type={mime_type}"),
        *("--", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        env={"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), "PYTHONUTF8": "1"},
    )
    try:
        async with asyncio.timeout(limits.wall_seconds):
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
    pieces: list[bytes] = []
    size = 0
    while piece := await process.stdout.read(_READ_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_OUTPUT_BYTES:
            raise DocumentUnreadable("the document unpacks to far more text than is allowed")
    return b"".join(pieces)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())


def _judged(return_code: int | None, output: bytes) -> ExtractedText:
    if return_code != 0:
        raise DocumentUnreadable("reading the document takes more memory or time than is allowed")
    outcome = json.loads(output)
    match outcome.get("error"):
        case None:
            pages = tuple(Page(number, text) for number, text in outcome["pages"])
            return ExtractedText(outcome["title"], outcome["mime_type"], outcome["is_markdown"], pages)
        case "DOCUMENT_EMPTY":
            raise DocumentEmpty(outcome["message"])
        case _:
            raise DocumentUnreadable(outcome["message"])
