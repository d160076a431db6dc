"""A program started by us: in its own process group, never outliving its parent, stopped for certain."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# A log longer than this is put aside at the next start, and the one that was put aside before it is gone.
LONGEST_LOG_BYTES = 32 * 1024 * 1024
LEASH = Path(__file__).with_name("leash.py")
# What a program sees of the environment when it is given nothing else.
BARE_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Identity:
    """The system user a program runs as; -1 keeps the caller's own."""

    uid: int = -1
    gid: int = -1


@dataclass(frozen=True)
class Command:
    """What to run. Secrets belong into `environment` or a file, never into `argv`.

    `log`: the file that takes the output; without one the output is a pipe, read through `Child.output`.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(BARE_ENVIRONMENT), repr=False)
    log: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGTERM
    identity: Identity = Identity()
    working_directory: Path | None = None


class Child:
    """One running program. It starts on construction, and ends with the thread that constructed it."""

    def __init__(self, command: Command) -> None:
        self._command = command
        identity = command.identity
        leash = [os.getpid(), int(command.orphan_signal), identity.uid, identity.gid]
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(_opened(command.log)) if command.log else subprocess.PIPE
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), *map(str, leash), *command.argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=dict(command.environment),
                cwd=command.working_directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is also its group's."""
        return self._process.pid

    @property
    def is_piped(self) -> bool:
        """Whether the output is ours to read."""
        return self._process.stdout is not None

    @property
    def output_descriptor(self) -> int:
        """The reading end of the program's output, for a command without a log."""
        if self._process.stdout is None:
            raise RuntimeError("the program writes to its log")
        return self._process.stdout.fileno()

    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.poll()

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """The exit code, or None when it still runs after `timeout_seconds`."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_stop(self) -> None:
        """Sends the polite signal; does not wait."""
        if self.exit_code() is None:
            self._process.send_signal(self._command.stop_signal)

    def kill(self) -> None:
        """Ends the program and all of its group at once."""
        self.kill_rest()
        self._process.wait()

    def kill_rest(self) -> None:
        """Ends whatever of the group still runs."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def stop(self, grace_seconds: float) -> int:
        """Asks, waits `grace_seconds`, then kills the whole group; returns the exit code."""
        self.ask_to_stop()
        self.wait(grace_seconds)
        self.kill_rest()
        code = self._process.wait()
        self.close()
        return code

    def close(self) -> None:
        """Lets go of the output pipe."""
        if self._process.stdout is not None:
            self._process.stdout.close()


def _opened(log: Path) -> IO[bytes]:
    if log.exists() and log.stat().st_size > LONGEST_LOG_BYTES:
        log.replace(f"{log}.1")
    return log.open("ab")
