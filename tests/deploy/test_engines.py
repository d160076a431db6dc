"""Engines from wheels: they serve, keep what they acknowledged through a kill -9, die with their parent."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from pymongo import AsyncMongoClient
from redis.asyncio import Redis as RedisClient

from deploy.local.engine import EngineFailedError, EngineMissingError, run_blocking, running_engine, start
from deploy.local.engines import Mongo, Postgres, Redis
from tests.house.ports import own_port
from tests.house.waiting import wait_until

Client = AsyncMongoClient[dict[str, Any]]


async def test_postgres_keeps_acknowledged_rows_through_kill_9_and_a_change_of_port(tmp_path: Path) -> None:
    first = Postgres(tmp_path, own_port())
    child = start(first)
    connection = await asyncpg.connect(first.url())
    await connection.execute(
        "CREATE EXTENSION vector; CREATE TABLE kept (v vector(3)); INSERT INTO kept VALUES ('[1,2,3]')"
    )
    child.kill()
    connection.terminate()

    second = Postgres(tmp_path, own_port())
    with running_engine(second):
        connection = await asyncpg.connect(second.url())
        assert await connection.fetchval("SELECT v::text FROM kept") == "[1,2,3]"
        await connection.close()


async def test_mongo_keeps_acknowledged_documents_through_kill_9_and_a_change_of_port(tmp_path: Path) -> None:
    first = Mongo(tmp_path, own_port())
    child = start(first)
    writer: Client = AsyncMongoClient(first.url(), w="majority", journal=True)
    async with writer:
        await writer.kept.things.insert_one({"_id": 1})
    child.kill()

    second = Mongo(tmp_path, own_port())
    with running_engine(second):
        reader: Client = AsyncMongoClient(second.url())
        async with reader:
            assert await reader.kept.things.find_one({}) == {"_id": 1}


async def test_redis_keeps_acknowledged_entries_through_kill_9(tmp_path: Path) -> None:
    engine = Redis(tmp_path, own_port())
    child = start(engine)
    async with RedisClient.from_url(engine.url(), decode_responses=True) as client:
        await client.xadd("metrics:kept", {"n": "1"})
    child.kill()

    with running_engine(engine):
        async with RedisClient.from_url(engine.url(), decode_responses=True) as client:
            entries = await client.xrange("metrics:kept")
            assert [fields for _, fields in entries or ()] == [{"n": "1"}]


async def test_change_streams_work_on_the_single_node(mongo_url: str) -> None:
    client: Client = AsyncMongoClient(mongo_url)
    async with client, await client.feed.things.watch() as stream:
        await client.feed.things.insert_one({"_id": "seen"})
        assert (await stream.next())["documentKey"] == {"_id": "seen"}


def test_the_superuser_needs_the_generated_password(tmp_path: Path) -> None:
    engine = Postgres(tmp_path, own_port())
    with running_engine(engine):
        assert (tmp_path / "password").stat().st_mode & 0o077 == 0
        with pytest.raises(asyncpg.InvalidPasswordError):
            run_blocking(asyncpg.connect(engine.url().replace("@", "x@"), timeout=30))


def test_an_engine_dies_with_a_killed_parent_and_the_next_start_takes_over(tmp_path: Path) -> None:
    parent = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from deploy.local.engine import start; from deploy.local.engines import Redis
        print(start(Redis(Path({str(tmp_path)!r}), {own_port()})).pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        orphan = psutil.Process(int(process.stdout.readline()))
        process.kill()
    with running_engine(Redis(tmp_path, own_port())):
        wait_until(lambda: not orphan.is_running())


def test_a_pid_file_that_names_somebody_else_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "redis.pid").write_text(f"{psutil.Process().pid}\n")
    with running_engine(Redis(tmp_path, own_port())):
        assert psutil.Process().is_running()


def test_a_missing_wheel_names_the_variable_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for engine, variable in ((Postgres, "DATABASE_URL"), (Mongo, "MONGODB_URL"), (Redis, "REDIS_URL")):
        with pytest.raises(EngineMissingError, match=f"set {variable}"):
            engine(tmp_path, 1).command()


def test_an_engine_that_cannot_start_says_so(tmp_path: Path, redis_url: str) -> None:
    taken = int(redis_url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(EngineFailedError, match=f"port {taken} is taken"):
        start(Redis(tmp_path, taken))
