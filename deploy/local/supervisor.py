"""Keeps programs running: starts them, waits until they serve, starts again what dies, stops all."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.local.child import Child, Command
from deploy.local.output import Output

FIRST_START_ATTEMPTS = 5
READY_SECONDS = 90.0
POLL_SECONDS = 0.05
LINE_LIMIT = 1024 * 1024


class StartFailedError(RuntimeError):
    """A program did not come up on the first start; the message says which and why."""


async def _at_once() -> None:
    """Ready as soon as it runs."""


@dataclass(frozen=True)
class Program:
    """What to keep running.

    `prepare` blocks and runs before every start; `ready` raises ConnectionError until the program serves.
    """

    name: str
    command: Callable[[], Command]
    ready: Callable[[], Awaitable[None]] = _at_once
    prepare: Callable[[], None] = lambda: None
    last_words: Callable[[], str] = lambda: ""
    grace_seconds: float = 20.0


@dataclass
class Backoff:
    """The pause before the next start: doubles from 0.2 s to 5 s, and begins again after a run of 10 s."""

    first_seconds: float = 0.2
    longest_seconds: float = 5.0
    stable_seconds: float = 10.0
    _next: float = field(default=0.0, init=False)

    def pause_after(self, lived_seconds: float) -> float:
        """Seconds to wait after a run of this length."""
        if lived_seconds >= self.stable_seconds or not self._next:
            self._next = self.first_seconds
        pause = self._next
        self._next = min(self._next * 2, self.longest_seconds)
        return pause


class Supervisor:
    """Lives on the main thread: its children end with the thread that started them.

    `on_change` hears the process ids by name after every start.
    """

    def __init__(self, output: Output, on_change: Callable[[Mapping[str, int]], None]) -> None:
        self._output = output
        self._on_change = on_change
        self._children: dict[str, Child] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._stages: list[Sequence[Program]] = []
        self._hurry = asyncio.Event()

    @property
    def pids(self) -> dict[str, int]:
        """Process id of every program that runs now."""
        return {name: child.pid for name, child in self._children.items() if child.exit_code() is None}

    async def start(self, programs: Sequence[Program]) -> None:
        """Starts a stage, returns when all of it serves; raises StartFailedError, or what `prepare` raised."""
        self._stages.append(programs)
        loop = asyncio.get_running_loop()
        served = [loop.create_future() for _ in programs]
        for program, first in zip(programs, served, strict=True):
            self._keepers[program.name] = asyncio.create_task(self._keep(program, first))
        await asyncio.gather(*served)

    async def run_once(self, name: str, command: Command) -> None:
        """Runs a program to its end; raises StartFailedError when that is not a good one."""
        self._stages.append([Program(name, lambda: command)])
        child = self._children[name] = Child(command)
        async with self._relaying(name, child):
            code = await _exit_of(child)
        if code != 0:
            raise StartFailedError(f"{name} ended with {_ending(code)}")

    def hurry(self) -> None:
        """Ends the patience of a stop in progress."""
        self._hurry.set()

    async def stop(self) -> None:
        """Stops every stage, the last started first. Nothing is left running afterwards."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for stage in reversed(self._stages):
            await asyncio.gather(*(self._stop_one(program) for program in stage))

    async def _stop_one(self, program: Program) -> None:
        child = self._children.pop(program.name, None)
        if child is None:
            return
        async with self._relaying(program.name, child):
            child.ask_to_stop()
            deadline = time.monotonic() + program.grace_seconds
            while child.exit_code() is None and time.monotonic() < deadline and not self._hurry.is_set():  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
            if child.exit_code() is None:
                self._output.say(f"{program.name} did not stop when asked; killed")
            child.kill_rest()
            await _exit_of(child)
        child.close()

    async def _keep(self, program: Program, first: asyncio.Future[None]) -> None:
        backoff = Backoff()
        attempts = 0
        while True:
            started = time.monotonic()
            try:
                ending = await self._one_life(program, first)
            except Exception as error:
                ending = str(error)
                if not first.done():
                    first.set_exception(error)
                    return
            attempts += 1
            if not first.done() and attempts == FIRST_START_ATTEMPTS:
                words = program.last_words()
                first.set_exception(StartFailedError(f"{program.name} ended with {ending}\n{words}".rstrip()))
                return
            pause = backoff.pause_after(time.monotonic() - started)
            self._output.say(f"{program.name} ended with {ending}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)

    async def _one_life(self, program: Program, first: asyncio.Future[None]) -> str:
        """From start to end; how it ended."""
        await asyncio.to_thread(program.prepare)
        child = self._children[program.name] = Child(program.command())
        self._on_change(self.pids)
        async with self._relaying(program.name, child):
            readiness = asyncio.create_task(self._until_ready(program, child, first))
            try:
                code = await _exit_of(child)
            finally:
                readiness.cancel()
                await asyncio.gather(readiness, return_exceptions=True)
        child.kill_rest()
        child.close()
        return _ending(code)

    async def _until_ready(self, program: Program, child: Child, first: asyncio.Future[None]) -> None:
        started = time.monotonic()
        while child.exit_code() is None:
            try:
                await program.ready()
            except ConnectionError as error:
                if time.monotonic() - started > READY_SECONDS and not first.done():
                    words = f"{program.name} does not serve after {READY_SECONDS:g} s: {error}"
                    first.set_exception(StartFailedError(f"{words}\n{program.last_words()}".rstrip()))
                    return
                await asyncio.sleep(POLL_SECONDS)
            else:
                break
        if child.exit_code() is None:
            self._output.say(f"{program.name} serves after {time.monotonic() - started:.1f} s")
            if not first.done():
                first.set_result(None)

    @contextlib.asynccontextmanager
    async def _relaying(self, name: str, child: Child) -> AsyncIterator[None]:
        """Passes the program's lines on while the block runs, and what is left of them at its end."""
        relay = asyncio.create_task(self._relay(name, child)) if child.is_piped else None
        try:
            yield
        finally:
            if relay is not None:
                # A grandchild may hold the pipe open beyond the program's end.
                await asyncio.wait([relay], timeout=1.0 if child.exit_code() is not None else 0)
                relay.cancel()
                await asyncio.gather(relay, return_exceptions=True)

    async def _relay(self, name: str, child: Child) -> None:
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        pipe = os.fdopen(os.dup(child.output_descriptor), "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            async for line in _lines(reader):
                self._output.line(name, line)
        finally:
            transport.close()


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines without their ends; one that is too long comes in pieces."""
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            if end.partial:
                yield end.partial.decode(errors="replace")
            return
        except asyncio.LimitOverrunError as overrun:
            line = await reader.readexactly(overrun.consumed)
        yield line.decode(errors="replace").rstrip("\r\n")


async def _exit_of(child: Child) -> int:
    while (code := child.exit_code()) is None:  # noqa: ASYNC110 portable: nothing tells of an exit
        await asyncio.sleep(POLL_SECONDS)
    return code


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
