"""The directory that outlives a run: held by one run at a time, with secrets that are made once."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class DirectoryHeldError(RuntimeError):
    """Another run works on this directory."""


class FileUnreadableError(RuntimeError):
    """A file of ours is not as we wrote it; the message names it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}: bring it back from a backup; without it, keys are made anew")


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds the directory for the block; the system lets go of it even after a kill -9."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise DirectoryHeldError(
                f"{directory} is in use by process {lock.read().strip() or '?'}: stop that one first, "
                "or set PROSA_DATA_DIR to another directory."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_held(directory: Path) -> bool:
    """Whether a run works on this directory, which exists."""
    try:
        with held(directory):
            return False
    except DirectoryHeldError:
        return True


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty when there is no file. FileUnreadableError when it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise FileUnreadableError(path, "holds no JSON") from None
    if not isinstance(content, dict):
        raise FileUnreadableError(path, "holds no JSON object")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces the file at once, readable by its owner alone; a crash leaves the old or the new one."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=2)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
