"""tenant_quota on a real database: its pool, and the whole service behind the real wire."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from pydantic import SecretStr

from services.tenant_quota.__main__ import SCHEMA, SCHEMA_DIRECTORY, open_endpoints
from services.tenant_quota.config import Config
from services.tenant_quota.model import new_secret
from shared.postgres import migrate, open_pool
from tests.house.in_process import serving
from tests.house.signing import SigningKeys
from tests.tenant_quota.hand_set_clock import HAND_SET_CLOCK, Clock
from tests.tenant_quota.world import Platform


@pytest.fixture(scope="session")
async def database(fresh_database: Callable[[], str]) -> SecretStr:
    """A migrated database."""
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    return url


@pytest.fixture(scope="session")
async def pool(database: SecretStr) -> AsyncIterator[asyncpg.Pool]:
    """As the service's own role, which row-level security binds."""
    async with open_pool(database, schema=SCHEMA, max_size=12) as opened:
        yield opened


@pytest.fixture(scope="session")
async def other_pool(database: SecretStr) -> AsyncIterator[asyncpg.Pool]:
    """What a second replica has."""
    async with open_pool(database, schema=SCHEMA, max_size=12) as opened:
        yield opened


@pytest.fixture(scope="session")
def config(database: SecretStr, redis_url: str, signing_keys: SigningKeys) -> Config:
    """The settings of a replica."""
    return Config(
        port=0,
        database_url=database,
        redis_url=SecretStr(redis_url),
        redis_timeout_ms=5_000,
        token_signing_key=SecretStr(signing_keys.private_pem),
        token_public_key=signing_keys.public_pem,
        api_key_pepper=SecretStr("a pepper of these tests"),
        api_key_environment="test",
        bootstrap_admin_key=SecretStr(new_secret("test")),
        bootstrap_service_key=SecretStr(new_secret("test")),
        sweep_interval_seconds=0.2,
        last_use_interval_seconds=0.2,
        drain_delay_seconds=0,
    )


@pytest.fixture(scope="session")
async def platform(config: Config, signing_keys: SigningKeys) -> AsyncIterator[Platform]:
    """The service in this process, behind the real server and interceptors."""
    async with (
        open_endpoints(config) as service,
        serving(service.endpoints, signing_keys, ready=service.ready) as channel,
    ):
        yield Platform(
            channel,
            signing_keys,
            service.pool,
            config.bootstrap_admin_key.get_secret_value(),
            config.bootstrap_service_key.get_secret_value(),
        )


@pytest.fixture(scope="session")
async def quiet_database(fresh_database: Callable[[], str]) -> SecretStr:
    """A migrated database on which no service runs: nothing happens on it by itself."""
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    return url


@pytest.fixture(scope="session")
async def quiet_pool(quiet_database: SecretStr) -> AsyncIterator[asyncpg.Pool]:
    """As `pool`, where it is quiet."""
    async with open_pool(quiet_database, schema=SCHEMA, max_size=12) as opened:
        yield opened


@pytest.fixture(scope="session")
async def other_quiet_pool(quiet_database: SecretStr) -> AsyncIterator[asyncpg.Pool]:
    """As `other_pool`, where it is quiet."""
    async with open_pool(quiet_database, schema=SCHEMA, max_size=12) as opened:
        yield opened


@pytest.fixture(scope="session")
async def signal_config(config: Config, fresh_database: Callable[[], str]) -> Config:
    """The settings of replicas whose webhooks are ours, on a database of their own."""
    url = SecretStr(fresh_database())
    await migrate(url, schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    webhooks = {"webhook_private_addresses_allowed": True, "webhook_http_allowed": True}
    return config.model_copy(update={"database_url": url, **webhooks})


@pytest.fixture(scope="module")
async def timed_pool(fresh_database: Callable[[], str]) -> AsyncIterator[asyncpg.Pool]:
    """As `pool`, on a database of its own whose clock is set by hand."""
    url = fresh_database()
    await migrate(SecretStr(url), schema=SCHEMA, directory=SCHEMA_DIRECTORY)
    superuser = await asyncpg.connect(url)
    await superuser.execute(HAND_SET_CLOCK)
    await superuser.close()
    settings = {"role": "prosa_tenant_quota", "search_path": "hand_set, tenant_quota, pg_catalog"}
    async with asyncpg.create_pool(url, min_size=1, max_size=4, server_settings=settings) as pool:
        yield pool


@pytest.fixture
def clock(timed_pool: asyncpg.Pool) -> Clock:
    """Its clock."""
    return Clock(timed_pool)
