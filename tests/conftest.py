"""Real engines, started on first use and once a session; an environment that no test inherits or leaks."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import asyncpg
import hypothesis
import pytest

from deploy.local.child import Command
from deploy.local.engine import Engine, run_blocking, running_engine
from deploy.local.engines import Mongo, Postgres, Redis
from tests.house.ports import own_port
from tests.house.signing import SigningKeys, new_signing_keys

if TYPE_CHECKING:  # imported when first asked for: they need every room of the house
    from tests.house.fake_provider import FakeProvider
    from tests.house.processes import System

SERVICE_VARIABLES = (
    "PROSA_",
    "TENANT_QUOTA_",
    "CHAT_STORE_",
    "DOCUMENT_RAG_",
    "ANALYTICS_",
    "GATEWAY_",
    "DATABASE_",
    "MONGODB_",
    "REDIS_",
    "OPENAI_",
    "OTEL_",
)

AnyEngine = TypeVar("AnyEngine", bound=Engine)


# How long an example takes, or is thought up, says how busy the machine is.
hypothesis.settings.register_profile("prosa", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("prosa")


def pytest_configure() -> None:
    """The shell's own settings are no part of a test."""
    for name in _service_variables():
        del os.environ[name]


@pytest.fixture(autouse=True)
def clean_environ() -> Iterator[None]:
    """What a test puts into the environment is gone with it."""
    yield
    for name in _service_variables():
        del os.environ[name]


def _service_variables() -> list[str]:
    return [name for name in os.environ if name.startswith(SERVICE_VARIABLES)]


@pytest.fixture(scope="session")
def engine_directory() -> Iterator[Path]:
    """Where the session's engines keep their data."""
    directory = Path(tempfile.mkdtemp(prefix="prosa-tests-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(engine_directory: Path) -> Iterator[Postgres]:
    """The session's PostgreSQL."""
    with _running(_FleetingPostgres(engine_directory / "postgres", own_port())) as engine:
        yield engine


@pytest.fixture(scope="session")
def fresh_database(postgres_server: Postgres) -> Callable[[], str]:
    """Makes a new empty database on each call; returns its superuser URL."""
    return lambda: _create_database(postgres_server)


@pytest.fixture(scope="session")
def postgres_url(postgres_server: Postgres) -> str:
    """The superuser's URL of a database that is fresh this session."""
    return _create_database(postgres_server)


@pytest.fixture(scope="session")
def mongo_url(engine_directory: Path) -> Iterator[str]:
    """A replica set of one node."""
    with _running(_FleetingMongo(engine_directory / "mongo", own_port())) as engine:
        yield engine.url()


@pytest.fixture(scope="session")
def redis_url(engine_directory: Path) -> Iterator[str]:
    """The session's Redis."""
    with _running(Redis(engine_directory / "redis", own_port())) as engine:
        yield engine.url()


@pytest.fixture(scope="session")
def signing_keys() -> SigningKeys:
    """A fresh Ed25519 pair."""
    return new_signing_keys()


@pytest.fixture(scope="session")
def provider() -> Iterator["FakeProvider"]:
    """The fake LLM that the system's assistants can name as their model."""
    from tests.house.fake_provider import fake_provider

    with fake_provider() as provider:
        yield provider


@pytest.fixture(scope="session")
def system(provider: "FakeProvider") -> Iterator["System"]:
    """The whole system in its own processes, as `make run` starts it; the demo tenant is seeded.

    Assistants answer extractively unless their model is one of the fake LLM's.
    """
    from tests.house.processes import EDGE_SECRET, running_system

    directory = Path(tempfile.mkdtemp(prefix="prosa-system-"))
    directory.chmod(0o755)
    settings = {
        "OPENAI_API_KEY": "fake",
        "OPENAI_BASE_URL": provider.base_url,
        "DOCUMENT_RAG_ANSWER_MODEL": "extractive",
        "TENANT_QUOTA_EDGE_SECRET": EDGE_SECRET,
        "TENANT_QUOTA_REDIS_TIMEOUT_MS": "10000",  # a Redis that is late is done without
    }
    with running_system(directory, settings) as system:
        yield system
    shutil.rmtree(directory, ignore_errors=True)


class _FleetingPostgres(Postgres):
    """What it holds goes with the session: nothing waits for the disk, and it ends without tidying up."""

    def command(self) -> Command:
        command = super().command()
        return replace(command, argv=(*command.argv, "-c", "fsync=off"), stop_signal=signal.SIGQUIT)


class _FleetingMongo(Mongo):
    """It ends without tidying up, too."""

    def command(self) -> Command:
        return replace(super().command(), stop_signal=signal.SIGKILL)


@contextlib.contextmanager
def _running(engine: AnyEngine) -> Iterator[AnyEngine]:
    with running_engine(engine):
        yield engine


def _create_database(server: Postgres) -> str:
    name = f"test_{uuid4().hex[:12]}"

    async def create() -> None:
        connection = await asyncpg.connect(server.url())
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    run_blocking(create())
    return server.url(name)
