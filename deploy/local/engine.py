"""What every engine has in common: how it is found, started, awaited and stopped."""

import asyncio
import contextlib
import importlib.util
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from deploy.local.child import Child, Command
from deploy.local.ports import is_free

# Ends what hangs: what cannot start says so at once, and a busy machine may take a minute.
START_SECONDS = 240.0
STOP_SECONDS = 20.0

Result = TypeVar("Result")


class EngineMissingError(RuntimeError):
    """No wheel carries this engine here; the message names the variable that points to another one."""


class EngineFailedError(RuntimeError):
    """The engine did not start; the message quotes its last words."""


class Engine(Protocol):
    """What the supervisor and the tests need to know of an engine."""

    @property
    def name(self) -> str:
        """For logs."""

    @property
    def port(self) -> int:
        """Where it listens on the loopback."""

    @property
    def log(self) -> Path:
        """The file that takes its output."""

    def url(self) -> str:
        """How clients reach it, credentials included; after `prepare`."""

    def prepare(self) -> None:
        """Creates what the first start needs, clears what a crash left; blocking."""

    def command(self) -> Command:
        """What to run."""

    async def ready(self) -> None:
        """Returns when clients are served; raises ConnectionError when they are not yet."""


@contextlib.contextmanager
def running_engine(engine: Engine) -> Iterator[Child]:
    """A started, ready engine for the length of the block; EngineFailedError when it does not come up."""
    child = start(engine)
    try:
        yield child
    finally:
        child.stop(STOP_SECONDS)


def start(engine: Engine, within_seconds: float = START_SECONDS) -> Child:
    """Starts an engine and waits until it serves. The calling thread must outlive it."""
    engine.prepare()
    if not is_free(engine.port):
        raise EngineFailedError(f"{engine.name} did not start: port {engine.port} is taken")
    child = Child(engine.command())
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            run_blocking(engine.ready())
        except ConnectionError as error:
            if child.exit_code() is not None or time.monotonic() > deadline:
                child.stop(STOP_SECONDS)
                raise EngineFailedError(f"{engine.name} did not start ({error}):\n{last_words(engine)}") from error
            time.sleep(0.05)
        else:
            return child


def last_words(engine: Engine, lines: int = 20) -> str:
    """The end of the engine's log."""
    text = engine.log.read_text(errors="replace") if engine.log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def run_blocking(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine to its end from ordinary code, whether or not this thread has a loop of its own."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()


def program_in(package: str, inside: Path, product: str, variable: str) -> Path:
    """The program inside an installed package; EngineMissingError names the variable to set when there is none."""
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations if spec else None) or ():
            if (program := Path(location) / inside).exists():
                return program
    raise EngineMissingError(
        f"No {product} for this platform among the installed wheels: set {variable} to a {product} you have."
    )
