"""Between an engine and its directory: the superuser PostgreSQL refuses to be, the remains of a crash."""

import contextlib
import os
import pwd
import signal
import stat
import sys
from pathlib import Path

import psutil

from deploy.local.child import Identity

# Where we are root, PostgreSQL runs as a user that owns nothing else here.
UNPRIVILEGED_USERS = ("postgres", "nobody")
ORPHAN_SECONDS = 20.0


def engine_identity() -> Identity:
    """Whom PostgreSQL runs as: ourselves, or an unprivileged system user when we are root."""
    if os.geteuid() != 0:
        return Identity()
    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Identity(entry.pw_uid, entry.pw_gid)
    raise RuntimeError("PostgreSQL does not run as root and there is no other user: set DATABASE_URL, or run as a user")


def open_the_way(programs: Path, data: Path) -> None:
    """When we are root: hands `data` to PostgreSQL's user and lets it pass the directories above both."""
    identity = engine_identity()
    if identity.uid < 0:
        return
    for path in (data, *data.rglob("*")):
        hand_over(path)
    for directory in {*programs.resolve().parents, *data.resolve().parents}:
        mode = stat.S_IMODE(directory.stat().st_mode)
        if not mode & stat.S_IXOTH:
            sys.stderr.write(f"running as root: chmod o+x {directory}, so that PostgreSQL's user reaches its files\n")
            directory.chmod(mode | stat.S_IXOTH)


def hand_over(path: Path) -> None:
    """When we are root: makes `path` the property of PostgreSQL's user."""
    identity = engine_identity()
    if identity.uid >= 0:
        os.chown(path, identity.uid, identity.gid)


def clear_orphan(pid_file: Path, program: str, stop_signal: signal.Signals) -> None:
    """Ends an engine that outlived its parent here; removes a pid file that names somebody else's process.

    Only for a directory that we hold: whoever runs there was started by us.
    """
    pid = _pid_in(pid_file)
    if pid is None:
        return
    process = _process_on(pid, program, pid_file.parent)
    if process is not None:
        process.send_signal(stop_signal)
        _, alive = psutil.wait_procs([process], timeout=ORPHAN_SECONDS)
        for survivor in alive:
            survivor.kill()
            survivor.wait()
    pid_file.unlink(missing_ok=True)


def _pid_in(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text().split()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _process_on(pid: int, program: str, directory: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        arguments = process.cmdline()
    except psutil.Error:
        return None
    here = any(str(directory) in argument for argument in arguments) or _works_in(process, directory)
    return process if here and program in " ".join(arguments) else None


def _works_in(process: psutil.Process, directory: Path) -> bool:
    """Redis overwrites its arguments; it works inside its directory."""
    try:
        return Path(process.cwd()) == directory.resolve()
    except psutil.Error:
        return False
