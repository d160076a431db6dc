"""tenant_quota as operators run it: a process, its settings, its signals, its death."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from prosa.tenant_quota.v1 import quota_service_pb2, tenant_service_pb2
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.tenant_quota.model import parse_secret
from tests.house.in_process import as_caller, as_service
from tests.house.ports import own_port
from tests.house.signing import SigningKeys
from tests.house.waiting import until_answered

REPOSITORY = Path(__file__).parents[2]


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.tenant_quota", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def environment(fresh_database: Callable[[], str], signing_keys: SigningKeys) -> dict[str, str]:
    admin, service = run("new-key", "test").stdout.strip(), run("new-key", "test").stdout.strip()
    return {
        "DATABASE_URL": fresh_database(),
        "TENANT_QUOTA_PORT": str(own_port()),
        "TENANT_QUOTA_TOKEN_SIGNING_KEY": signing_keys.private_pem.replace("\n", "\\n"),
        "PROSA_TOKEN_PUBLIC_KEY": signing_keys.public_pem,
        "TENANT_QUOTA_API_KEY_PEPPER": "a pepper of these tests",
        "TENANT_QUOTA_BOOTSTRAP_ADMIN_KEY": admin,
        "TENANT_QUOTA_BOOTSTRAP_SERVICE_KEY": service,
        "TENANT_QUOTA_SWEEP_INTERVAL_SECONDS": "0.2",
    }


def start(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.tenant_quota"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@asynccontextmanager
async def serving(environment: Mapping[str, str]) -> AsyncIterator[tuple[subprocess.Popen[bytes], grpc.aio.Channel]]:
    process = start(environment)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{environment['TENANT_QUOTA_PORT']}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 200)
            yield process, channel
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=100)


async def token(channel: grpc.aio.Channel, credential: str) -> str:
    request = tenant_service_pb2.AuthenticateRequest(credential=credential)
    return (await TenantServiceStub(channel).Authenticate(request)).access_token


def test_new_key_prints_a_key_and_needs_no_settings() -> None:
    done = run("new-key", "dev")
    assert done.returncode == 0
    assert done.stdout.startswith("pk_dev_")
    assert parse_secret(done.stdout.strip())


def test_bad_settings_end_the_process_and_show_no_secret(environment: dict[str, str]) -> None:
    secret = "x" * 9
    done = run("serve", environment={**environment, "TENANT_QUOTA_API_KEY_PEPPER": secret})
    assert done.returncode == 2
    assert "api_key_pepper" in (done.stdout + done.stderr).lower()
    assert secret not in done.stdout + done.stderr


async def test_a_killed_service_leaves_nothing_held_past_the_lease_and_makes_no_duplicate(
    environment: dict[str, str],
) -> None:
    assert run("migrate", environment=environment).returncode == 0
    assert run("migrate", environment=environment).returncode == 0
    async with serving(environment) as (process, channel):
        admin = as_caller(await token(channel, environment["TENANT_QUOTA_BOOTSTRAP_ADMIN_KEY"]))
        tenants = TenantServiceStub(channel)
        tenant = await tenants.CreateTenant(tenant_service_pb2.CreateTenantRequest(display_name="T"), metadata=admin)
        key = await tenants.CreateApiKey(
            tenant_service_pb2.CreateApiKeyRequest(tenant_id=tenant.tenant_id), metadata=admin
        )
        request = quota_service_pb2.ReserveTokensRequest(tokens=10, lease_seconds=2, request_id="turn")
        first = await _reserve(channel, environment, key.secret, request)
        process.kill()
        process.wait(100)

    async with serving(environment) as (process, channel):
        again = await _reserve(channel, environment, key.secret, request)
        assert again.reservation_id == first.reservation_id, "the retry finds what the first call made"
        admin = as_caller(await token(channel, environment["TENANT_QUOTA_BOOTSTRAP_ADMIN_KEY"]))
        usage = quota_service_pb2.GetUsageRequest(tenant_id=tenant.tenant_id)

        async def nothing_is_held() -> bool:
            told = await QuotaServiceStub(channel).GetUsage(usage, metadata=admin)
            return [each.held_tokens for each in told.usages] == [0, 0]

        await until_answered(nothing_is_held)

        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 100) == 0
        output = process.stdout.read().decode() if process.stdout else ""
        for name in ("ADMIN_KEY", "SERVICE_KEY"):
            assert environment[f"TENANT_QUOTA_BOOTSTRAP_{name}"] not in output
        assert "Traceback" not in output


async def test_the_last_use_of_a_key_outlives_the_process(environment: dict[str, str]) -> None:
    """A use that nobody has written yet is written on SIGTERM."""
    assert run("migrate", environment=environment).returncode == 0
    lazy = {**environment, "TENANT_QUOTA_LAST_USE_INTERVAL_SECONDS": "60"}
    async with serving(lazy) as (process, channel):
        admin = as_caller(await token(channel, environment["TENANT_QUOTA_BOOTSTRAP_ADMIN_KEY"]))
        tenants = TenantServiceStub(channel)
        tenant = await tenants.CreateTenant(tenant_service_pb2.CreateTenantRequest(display_name="T"), metadata=admin)
        wanted = tenant_service_pb2.CreateApiKeyRequest(tenant_id=tenant.tenant_id)
        key = await tenants.CreateApiKey(wanted, metadata=admin)
        await token(channel, key.secret)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 100) == 0
    async with serving(lazy) as (_, channel):
        admin = as_caller(await token(channel, environment["TENANT_QUOTA_BOOTSTRAP_ADMIN_KEY"]))
        listed = tenant_service_pb2.ListApiKeysRequest(tenant_id=tenant.tenant_id)
        (kept,) = (await TenantServiceStub(channel).ListApiKeys(listed, metadata=admin)).api_keys
        assert kept.HasField("last_use_time")


async def _reserve(
    channel: grpc.aio.Channel,
    environment: Mapping[str, str],
    secret: str,
    request: quota_service_pb2.ReserveTokensRequest,
) -> quota_service_pb2.Reservation:
    service = await token(channel, environment["TENANT_QUOTA_BOOTSTRAP_SERVICE_KEY"])
    metadata = as_service(service, await token(channel, secret))
    return await QuotaServiceStub(channel).ReserveTokens(request, metadata=metadata)
