"""The supervisor: it waits for readiness, starts again what dies, gives up in words, and leaves nothing behind."""

import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import psutil
import pytest

from deploy.local.child import Command
from deploy.local.output import Output
from deploy.local.supervisor import Backoff, Program, StartFailedError, Supervisor
from tests.house.waiting import until

FOREVER = "import time; time.sleep(600)"


def python(code: str, **options: object) -> Command:
    return Command(argv=(sys.executable, "-u", "-S", "-c", code), **options)  # type: ignore[arg-type]


class Stage:
    """A supervisor with what it said and whom it started."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.starts: list[Mapping[str, int]] = []
        self.supervisor = Supervisor(Output(self.stream), self.starts.append)

    @property
    def said(self) -> str:
        return self.stream.getvalue()

    async def until_restarted(self, name: str, old_pid: int) -> int:
        await until(lambda: self.supervisor.pids.get(name, old_pid) != old_pid)
        return self.supervisor.pids[name]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.supervisor.stop()


async def test_start_returns_when_the_program_serves(stage: Stage, tmp_path: Path) -> None:
    flag = tmp_path / "served"

    async def ready() -> None:
        if not flag.exists():
            raise ConnectionError("not yet")

    code = f"import pathlib, time; time.sleep(0.3); pathlib.Path({str(flag)!r}).touch(); time.sleep(600)"
    await stage.supervisor.start([Program("slow", lambda: python(code), ready=ready)])
    assert flag.exists()
    assert "slow serves after" in stage.said


async def test_lines_of_a_program_carry_its_name(stage: Stage) -> None:
    code = "print('olá'); print('x' * 3_000_000); print('no end', end='')"
    await stage.supervisor.run_once("talker", python(code))
    lines = stage.said.splitlines()
    assert lines[0] == "talker       | olá"
    assert sum(line.count("x") for line in lines) == 3_000_000
    assert lines[-1] == "talker       | no end"


async def test_a_killed_program_is_started_again(stage: Stage) -> None:
    await stage.supervisor.start([Program("victim", lambda: python(FOREVER))])
    first = stage.supervisor.pids["victim"]
    os.kill(first, signal.SIGKILL)
    second = await stage.until_restarted("victim", first)
    assert stage.starts[-1] == {"victim": second}
    assert "victim ended with signal 9; starting it again in 0.2 s" in stage.said


async def test_a_program_that_never_starts_is_given_up_with_its_last_words(stage: Stage) -> None:
    program = Program("hopeless", lambda: python("raise SystemExit(3)"), ready=_never, last_words=lambda: "no disk")
    with pytest.raises(StartFailedError, match=r"hopeless ended with exit code 3\nno disk"):
        await stage.supervisor.start([program])


async def test_a_failed_one_off_says_which(stage: Stage) -> None:
    with pytest.raises(StartFailedError, match="migrate ended with exit code 7"):
        await stage.supervisor.run_once("migrate", python("raise SystemExit(7)"))


async def test_stop_goes_backwards_and_leaves_no_process_not_even_a_stubborn_one_with_children() -> None:
    stage = Stage()
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']).pid);"
        "time.sleep(600)"
    )
    polite = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit()));"
        "print('hello'); time.sleep(600)"
    )
    await stage.supervisor.start([Program("stubborn", lambda: python(stubborn), grace_seconds=0.5)])
    await stage.supervisor.start([Program("polite", lambda: python(polite))])
    await until(lambda: "stubborn     | " in stage.said and "hello" in stage.said)
    grandchild = int(stage.said.split("stubborn     | ")[1].split()[0])
    pids = list(stage.supervisor.pids.values())

    await stage.supervisor.stop()

    assert len(pids) == 2
    assert not any(_runs(pid) for pid in pids)
    # It is killed by then, and not yet gone: it is nobody's child to wait for.
    await until(lambda: not _runs(grandchild))
    assert stage.said.index("bye") < stage.said.index("stubborn did not stop when asked")


async def test_stop_in_the_middle_of_a_start_leaves_no_process(stage: Stage) -> None:
    starting = asyncio.create_task(stage.supervisor.start([Program("never", lambda: python(FOREVER), ready=_never)]))
    await until(lambda: stage.supervisor.pids)
    (pid,) = stage.supervisor.pids.values()
    starting.cancel()
    await stage.supervisor.stop()
    assert not _runs(pid)


async def test_a_hurried_stop_does_not_wait(stage: Stage) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    await stage.supervisor.start([Program("deaf", lambda: python(deaf), grace_seconds=60)])
    stage.supervisor.hurry()
    async with asyncio.timeout(30):
        await stage.supervisor.stop()


def test_the_pause_doubles_to_five_seconds_and_begins_again_after_a_long_life() -> None:
    backoff = Backoff()
    assert [backoff.pause_after(0) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.pause_after(11) == 0.2


def test_names_are_coloured_when_wanted() -> None:
    stream = io.StringIO()
    output = Output(stream, colour=True)
    output.line("a", "1")
    output.line("b", "2")
    output.plain("3")
    assert stream.getvalue() == ("\x1b[36ma            |\x1b[0m 1\n\x1b[32mb            |\x1b[0m 2\n3\n")


async def test_a_reader_of_the_log_that_is_gone_stops_nobody() -> None:
    reading, writing = os.pipe()
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w") as stream:
        supervisor = Supervisor(Output(stream), lambda _: None)
        os.close(reading)
        async with asyncio.timeout(60):
            await supervisor.run_once("talker", python("print('x' * 1_000_000)"))
            await supervisor.start([Program("next", lambda: python(FOREVER))])
            (pid,) = supervisor.pids.values()
            await supervisor.stop()
    assert not _runs(pid)


async def _never() -> None:
    raise ConnectionError("never")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
