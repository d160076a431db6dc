"""The whole system in its own processes, started as `make run` starts it, for journeys and faults."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from deploy.local.cast import PORT_FIELDS
from deploy.local.data_directory import read_json
from tests.house.ports import own_port
from tests.house.waiting import wait_until

START_SECONDS = 240.0
STOP_SECONDS = 60.0
BACK_SECONDS = 120.0
REPOSITORY = Path(__file__).parents[2]
# With which a proxy before the gateway asks tenant_quota.
EDGE_SECRET = "what only the edge of these tests knows, and they"


class System:
    """One data directory and the supervisor that runs on it. Ports stay the same through restarts."""

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.log = directory / "run.log"
        ports = {f"PROSA_{name.upper()}": str(own_port()) for name in PORT_FIELDS}
        self._environment = {**os.environ, **ports, "PROSA_DATA_DIR": str(directory / "data"), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def demo(self) -> dict[str, Any]:
        """demo.json as it is now: gateway, keys, assistant_id, services, ports, processes; empty when not up."""
        return read_json(self.directory / "data" / "demo.json")

    @property
    def gateway(self) -> str:
        """The gateway's address, without a slash at the end."""
        return str(self.demo["gateway"])

    @property
    def output(self) -> str:
        """Everything the supervisor and its programs have written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def pid(self, name: str) -> int:
        """Process id of a service, of the gateway, or of postgres, mongod, redis."""
        return int(self.demo["processes"][name])

    def start(self) -> None:
        """Returns when everything serves; raises RuntimeError with the output's end when it does not."""
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deploy.local"],
                cwd=REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        # A run that was killed leaves its file behind.
        while self.demo.get("processes", {}).get("supervisor") != self._process.pid:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("the system did not start:\n" + "\n".join(self.output.splitlines()[-60:]))
            time.sleep(0.05)

    def stop(self) -> int:
        """SIGTERM, as an operator would; the exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise
        finally:
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stops and starts on the same data and ports."""
        self.stop()
        self.start()

    def kill(self, name: str) -> int:
        """kill -9 of one process, at once; returns its former id. `wait_until_back` waits for the next one."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_until_back(self, name: str, former_pid: int, within_seconds: float = BACK_SECONDS) -> None:
        """Returns when a new process of that name serves."""
        wait_until(lambda: self.demo.get("processes", {}).get(name, former_pid) != former_pid, within_seconds)
        wait_until(lambda: self.output.rpartition(f"{name} ended with")[2].count(f"{name} serves"), within_seconds)

    def kill_and_wait(self, name: str) -> None:
        """kill -9 of one process; returns when the supervisor has it serving again."""
        self.wait_until_back(name, self.kill(name))

    def kill_supervisor(self) -> None:
        """kill -9 of the parent of all; returns when nothing of the system runs any more."""
        if self._process is None:
            raise RuntimeError("not running")
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        self._process = None
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        if alive:
            raise RuntimeError(f"still running: {alive}")

    def family(self) -> list[psutil.Process]:
        """The supervisor and everything below it, now."""
        if self._process is None:
            return []
        supervisor = psutil.Process(self._process.pid)
        return [supervisor, *supervisor.children(recursive=True)]


@contextmanager
def running_system(directory: Path, settings: Mapping[str, str] | None = None) -> Iterator[System]:
    """A started system for the length of the block; `settings` go into its environment."""
    system = System(directory, settings)
    system.start()
    try:
        yield system
    finally:
        system.stop()
