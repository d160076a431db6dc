"""Three real mongods that vote: what one of them does alone no test of one can show."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect, PyMongoError

from deploy.local.child import Child
from deploy.local.engine import run_blocking, start
from deploy.local.engines import Mongo
from deploy.local.ports import LOOPBACK
from tests.house.ports import own_port
from tests.house.waiting import until_answered

ELECTION_TIMEOUT_MS = 2000


@dataclass(frozen=True)
class Member(Mongo):
    """A mongod that waits to be told of the others."""

    async def ready(self) -> None:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(_direct(self.port))
        try:
            await client.admin.command("ping")
        except PyMongoError as error:
            raise ConnectionError(str(error)) from error
        finally:
            await client.close()


class ReplicaSet:
    """The members by port, and what can be done to them."""

    def __init__(self, members: dict[int, Child]) -> None:
        self._members = members

    @property
    def url(self) -> str:
        """How clients reach all of them."""
        return f"mongodb://{','.join(f'{LOOPBACK}:{port}' for port in self._members)}/?replicaSet=prosa"

    async def initiate(self) -> None:
        """Makes them know each other; returns when one of them is primary."""
        hosts = [{"_id": number, "host": f"{LOOPBACK}:{port}"} for number, port in enumerate(self._members)]
        settings = {"electionTimeoutMillis": ELECTION_TIMEOUT_MS, "heartbeatIntervalMillis": 500}
        told = {"_id": "prosa", "members": hosts, "settings": settings}
        await _command(next(iter(self._members)), {"replSetInitiate": told})
        await until_answered(self.primary)

    async def primary(self) -> int:
        """The port of the member that takes writes; 0 while none does."""
        for port in self._members:
            try:
                hello = await _command(port, {"hello": 1})
            except PyMongoError:
                continue
            if hello.get("isWritablePrimary"):
                return port
        return 0

    async def step_down(self) -> None:
        """The primary gives its office away for 10 s, ready or not."""
        with suppress(AutoReconnect):  # it closes its connections on the way
            await _command(await self.primary(), {"replSetStepDown": 10, "force": True})

    async def kill_primary(self) -> None:
        """kill -9."""
        self._members[await self.primary()].kill()

    @contextmanager
    def minority(self, primary: int) -> Iterator[None]:
        """Inside the block only the primary runs; the others stand still and answer nobody."""
        stopped = [child for port, child in self._members.items() if port != primary]
        for child in stopped:
            os.killpg(child.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for child in stopped:
                os.killpg(child.pid, signal.SIGCONT)


@contextmanager
def running_replica_set(directory: Path) -> Iterator[ReplicaSet]:
    """Three members, one of them primary, for the length of the block."""
    with ExitStack() as stack:
        members: dict[int, Child] = {}
        for number in range(3):
            engine = Member(directory / f"mongo-{number}", own_port())
            members[engine.port] = start(engine)
            # Asked politely, a member first looks for a successor, also among those that are gone.
            stack.callback(members[engine.port].kill)
        replica_set = ReplicaSet(members)
        run_blocking(replica_set.initiate())
        yield replica_set


async def _command(port: int, command: dict[str, Any]) -> dict[str, Any]:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(_direct(port))
    try:
        return await client.admin.command(command)
    finally:
        await client.close()


def _direct(port: int) -> str:
    return f"mongodb://{LOOPBACK}:{port}/?directConnection=true&serverSelectionTimeoutMS=1000&timeoutMS=5000"
