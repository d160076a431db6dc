"""`python -m services.chat_store backup | restore | verify`: backups by an operator, beside the running service."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from services.chat_store.backup import Header, appearing_whole, restore, verify, write_backup
from services.chat_store.config import Config
from services.chat_store.engines import open_store
from shared.command_line import Errand

STANDARD_OUTPUT = "-"


async def _backup(file: str) -> None:
    config = Config()
    header = Header(config.engine, datetime.now(UTC).isoformat(timespec="seconds"))
    with _sink(file) as sink:
        async with open_store(config) as store:
            summary = await write_backup(store.upkeep, sink, header, _tell)
    _tell(f"{file} holds {summary}")


async def _restore(file: str, *, into_existing: bool) -> None:
    config = Config()
    async with open_store(config) as store:
        header, summary = await restore(store.upkeep, Path(file), _tell, into_existing=into_existing)
    _tell(f"{config.engine} holds what {header.engine} held at {header.time}: {summary}")


async def _verify(file: str) -> None:
    header, summary = verify(Path(file), _tell)
    _tell(f"{file} is whole: {header.engine} at {header.time}: {summary}")


BACKUP_ERRANDS: Mapping[str, Errand] = {
    "backup": Errand(_backup, "writes all that is kept into a file (- = standard output)", ("file",)),
    "restore": Errand(
        _restore,
        "takes a backup into an empty store, once it is known to be whole",
        ("file",),
        {"into_existing": "into one that is not empty: what it has already stays as it is"},
    ),
    "verify": Errand(_verify, "tells whether a backup is whole, and what it holds", ("file",)),
}


@contextmanager
def _sink(file: str) -> Iterator[IO[bytes]]:
    if file != STANDARD_OUTPUT:
        with appearing_whole(Path(file)) as sink:
            yield sink
        return
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as sink:
        # Whatever else is printed from here on, logs too, must not come between.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield sink


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 the reader is at a terminal
