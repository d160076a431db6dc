"""`python -m deploy.local`, also known as `make run`: the whole system on this machine, until Ctrl-C."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
from pydantic import ValidationError

from deploy.local.cast import Cast, PortTakenError, choose_ports
from deploy.local.config import LocalConfig, wants_colour
from deploy.local.data_directory import DirectoryHeldError, FileUnreadableError, held, write_json
from deploy.local.demo import Demo, Seeder, asking_assistant, asking_team
from deploy.local.engine import EngineFailedError, EngineMissingError
from deploy.local.keyring import keyring_in
from deploy.local.output import Output
from deploy.local.supervisor import StartFailedError, Supervisor
from shared.config import describe

DEMO_FILE = "demo.json"
EXPECTED = (
    DirectoryHeldError,
    EngineFailedError,
    EngineMissingError,
    FileUnreadableError,
    PortTakenError,
    StartFailedError,
)


class Run:
    """One run of the whole system over one data directory."""

    def __init__(self, cast: Cast, output: Output) -> None:
        self._cast = cast
        self._output = output
        self._supervisor = Supervisor(output, self._write_demo_file)
        self._demo: Demo | None = None
        self._is_up = False

    async def until_stopped(self) -> None:
        """Starts everything and keeps it running until a signal; a second signal hurries the stop."""
        up = asyncio.create_task(self._bring_up())
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, stop, up)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await up
                await stop.wait()
        finally:
            self._output.say("stopping")
            self._demo_file.unlink(missing_ok=True)
            self._is_up = False
            await self._supervisor.stop()
            self._output.say("stopped")

    def _on_signal(self, stop: asyncio.Event, up: "asyncio.Task[None]") -> None:
        if stop.is_set():
            self._supervisor.hurry()
        stop.set()
        up.cancel()

    async def _bring_up(self) -> None:
        started = time.monotonic()
        cast = self._cast
        await self._supervisor.start(cast.engine_programs())
        for name, command in cast.migrations():
            await self._supervisor.run_once(name, command)
        await self._supervisor.start(cast.service_programs())
        await self._supervisor.start([cast.gateway_program()])
        if cast.config.demo:
            self._output.say("looking after the demo tenant")
            self._demo = await Seeder(cast.targets, cast.keyring.admin_key, cast.config.data_dir).seed()
        self._is_up = True
        self._write_demo_file(self._supervisor.pids)
        self._output.say(f"everything serves after {time.monotonic() - started:.1f} s")
        self._greet()

    @property
    def _demo_file(self) -> Path:
        return self._cast.config.data_dir / DEMO_FILE

    def _write_demo_file(self, pids: Mapping[str, int]) -> None:
        """There is such a file while, and only while, the system is up."""
        if not self._is_up:
            return
        content = {
            "gateway": self._cast.gateway_url,
            "api_key": self._demo.api_key if self._demo else "",
            "end_user_key": self._demo.end_user_key if self._demo else "",
            "admin_key": self._cast.keyring.admin_key,
            "assistant_id": self._demo.assistant_id if self._demo else "",
            "team_id": self._demo.team_id if self._demo else "",
            "services": self._cast.targets,
            "ports": dict(self._cast.ports),
            "processes": {"supervisor": os.getpid(), **pids},
        }
        try:
            write_json(self._demo_file, content)
        except OSError as error:  # a program that was started again runs all the same
            self._output.say(f"{self._demo_file} could not be written: {error.strerror or error}")

    def _greet(self) -> None:
        gateway = self._cast.gateway_url
        self._output.plain("")
        self._output.plain(f"  Prosa      {gateway}")
        self._output.plain(f"  Contract   {gateway}/docs")
        self._output.plain(f"  Keys       {self._demo_file}")
        if self._demo:
            self._output.plain(f"  API key    {self._demo.api_key}\n\n  Ask the assistant:\n")
            self._output.plain(textwrap.indent(asking_assistant(gateway, self._demo), "    "))
            self._output.plain("\n  Ask the team, for what takes more than one of its assistants:\n")
            self._output.plain(textwrap.indent(asking_team(gateway, self._demo), "    "))
        self._output.plain("\n  Ctrl-C stops everything.\n")


def main(arguments: list[str]) -> int:
    """Runs the system; 0 after an orderly stop, 1 when something did not come up, 2 for unusable settings."""
    argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="Runs the whole of Prosa on this machine, until Ctrl-C.",
        epilog="Settings come from the environment:\n\n" + describe(LocalConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    output = Output(colour=wants_colour())
    try:
        config = LocalConfig()
    except ValidationError as error:
        output.say(str(error))
        return 2
    try:
        with held(config.data_dir):
            cast = Cast(config, choose_ports(config, output.say), keyring_in(config.data_dir))
            (config.data_dir / DEMO_FILE).unlink(missing_ok=True)
            asyncio.run(Run(cast, output).until_stopped())
    except EXPECTED as error:
        output.say(str(error))
        return 1
    except OSError as error:
        where = error.filename or config.data_dir
        output.say(f"{where}: {error.strerror or error} (PROSA_DATA_DIR names another directory)")
        return 1
    except grpc.aio.AioRpcError as error:
        output.say(f"the demo tenant could not be created: {error.code().name}: {error.details()}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
