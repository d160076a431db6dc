"""Identity put together: tenants, people, keys and sessions, and what they need done in the background."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from pydantic import SecretStr

from prosa.tenant_quota.v1 import (
    session_service_pb2,
    session_service_pb2_grpc,
    tenant_service_pb2,
    tenant_service_pb2_grpc,
)
from services.tenant_quota.api_keys import ApiKeys
from services.tenant_quota.authenticate import Authenticator
from services.tenant_quota.config import Config
from services.tenant_quota.credentials import Credentials, KeyedHash
from services.tenant_quota.erasure import Erasure
from services.tenant_quota.forgetting import FORGET_EVERY_SECONDS
from services.tenant_quota.last_uses import LastUses
from services.tenant_quota.login import Login
from services.tenant_quota.model import Principal, Role
from services.tenant_quota.passwords import PasswordHashing
from services.tenant_quota.session_handlers import SessionHandlers
from services.tenant_quota.sessions import Sessions
from services.tenant_quota.tenant_handlers import TenantHandlers
from services.tenant_quota.tenants import Tenants
from shared.caller import TokenSigner
from shared.errors import ServiceError
from shared.server import Endpoint
from shared.steadily import in_background, steadily
from shared.telemetry import get_logger

_log = get_logger()


@dataclass(frozen=True)
class Identity:
    """TenantService and SessionService, and what tells who stands behind the secret of a key or session."""

    endpoints: list[Endpoint]
    recognise: Callable[[str], Awaitable[Principal | None]]


@asynccontextmanager
async def open_identity(pool: asyncpg.Pool, config: Config) -> AsyncIterator[Identity]:
    """Identity on a migrated database; what is noted of last uses is written by the time the block has ended."""
    keyed_hash = KeyedHash(config.api_key_pepper)
    keys = ApiKeys(pool, keyed_hash, config.api_key_environment)
    await keys.ensure_bootstrap(_bootstrap_keys(config))
    last_uses = LastUses(pool)
    credentials = Credentials(pool, keyed_hash, last_uses, session_idle_seconds=config.session_idle_seconds)
    signer = TokenSigner(config.token_signing_key, config.token_lifetime_seconds)
    tenants = Tenants(pool)
    authenticator = Authenticator(credentials, tenants, signer, {Role.SERVICE: config.service_token_lifetime_seconds})
    sessions = Sessions(
        pool,
        keyed_hash,
        config.api_key_environment,
        lifetime_seconds=config.session_lifetime_seconds,
        idle_seconds=config.session_idle_seconds,
    )
    hashing = PasswordHashing()
    erasure = Erasure(pool, sessions)
    tenant_handlers = TenantHandlers(tenants, keys, authenticator, erasure, config.new_tenants_plan)
    session_handlers = SessionHandlers(Login(sessions, hashing), sessions)
    try:
        async with in_background(
            steadily("last_uses", last_uses.write, config.last_use_interval_seconds),
            steadily("sessions_forgetting", sessions.forget, FORGET_EVERY_SECONDS),
            steadily("erasures", erasure.finish, FORGET_EVERY_SECONDS),
        ):
            yield Identity(_endpoints(tenant_handlers, session_handlers), credentials.recognise)
    finally:
        hashing.close()
        await _write_the_last(last_uses)


async def _write_the_last(last_uses: LastUses) -> None:
    """What is still to be written; a database that is down keeps nobody from stopping."""
    try:
        await last_uses.write()
    except ServiceError as error:
        _log.warning("last_uses_not_written", reason=error.reason)


def _endpoints(tenants: TenantHandlers, sessions: SessionHandlers) -> list[Endpoint]:
    tenant_service = tenant_service_pb2.DESCRIPTOR.services_by_name["TenantService"]
    session_service = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
    return [
        Endpoint(tenant_service_pb2_grpc.add_TenantServiceServicer_to_server, tenants, tenant_service.full_name),
        Endpoint(session_service_pb2_grpc.add_SessionServiceServicer_to_server, sessions, session_service.full_name),
    ]


def _bootstrap_keys(config: Config) -> Mapping[Role, SecretStr]:
    wanted = {Role.PLATFORM_ADMIN: config.bootstrap_admin_key, Role.SERVICE: config.bootstrap_service_key}
    return {role: key for role, key in wanted.items() if key.get_secret_value()}
