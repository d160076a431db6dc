"""Who is measured: our service and its engine from this process, the peers from theirs, all asked the same way."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.bench.chat_service import Engines, EngineSide, ServiceSide
from tests.bench.pace import alone, together
from tests.house.processes import REPOSITORY

PYTHON = Path(".prosa") / "peers" / "bin" / "python"


class Side(Protocol):
    """One way to keep conversations. `call` is "append" (a pair) or "read" (the last messages)."""

    name: str

    async def fill(self, conversation_id: str, messages: int) -> None:
        """Makes a conversation of this length."""

    async def alone(self, call: str, conversation_id: str, seconds: float) -> float:
        """Milliseconds, median, of one caller."""

    async def together(self, call: str, conversation_ids: Sequence[str], seconds: float) -> float:
        """Calls per second of a caller for each conversation."""


class Own:
    """Ours: the service, or the engine without it."""

    def __init__(self, side: EngineSide | ServiceSide) -> None:
        self.name = side.name
        self.side = side

    async def fill(self, conversation_id: str, messages: int) -> None:
        await self.side.fill(conversation_id, messages)

    async def alone(self, call: str, conversation_id: str, seconds: float) -> float:
        return await alone(getattr(self.side, call), conversation_id, seconds)

    async def together(self, call: str, conversation_ids: Sequence[str], seconds: float) -> float:
        return await together(getattr(self.side, call), conversation_ids, seconds)


class Peer:
    """Somebody else's, in the process of the peers; one order at a time."""

    def __init__(self, process: "subprocess.Popen[str]", name: str) -> None:
        self.name = name
        self._process = process

    async def fill(self, conversation_id: str, messages: int) -> None:
        self._ordered(do="fill", name=conversation_id, messages=messages)

    async def alone(self, call: str, conversation_id: str, seconds: float) -> float:
        return float(self._ordered(do="alone", call=call, name=conversation_id, seconds=seconds))

    async def together(self, call: str, conversation_ids: Sequence[str], seconds: float) -> float:
        return float(self._ordered(do="together", call=call, names=list(conversation_ids), seconds=seconds))

    def _ordered(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"side": self.name, **order}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def running_peers(engines: Engines) -> Iterator[list[Peer]]:
    """The peers, ready, in a process of their own."""
    urls = [engines.mongo_url, engines.postgres_url, engines.redis_url]
    command = [str(PYTHON), "-m", "tests.bench.chat_peers", *urls]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield [Peer(process, name) for name in json.loads(process.stdout.readline())]
    finally:
        process.stdin.close()
        process.wait(30)
