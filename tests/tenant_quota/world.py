"""Short ways to say what the tests of tenant_quota say often."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import asyncpg
import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from prosa.tenant_quota.v1.plan_service_pb2_grpc import PlanServiceStub, PriceServiceStub
from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from prosa.tenant_quota.v1.session_service_pb2_grpc import SessionServiceStub
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.tenant_quota.model import PERMISSIONS, Replay, Role, Tenant
from services.tenant_quota.quota_model import Quota, Settlement, State, TokenUsage, Wish
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.tenants import Tenants
from shared.errors import Conflict
from shared.identifiers import new_id
from shared.postgres import tenant_transaction
from tests.house.in_process import Metadata, as_caller, token
from tests.house.signing import SigningKeys
from tests.house.zones import AT_NOON

if TYPE_CHECKING:
    from prosa.tenant_quota.v1.plan_service_pb2_grpc import PlanServiceAsyncStub, PriceServiceAsyncStub
    from prosa.tenant_quota.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub
    from prosa.tenant_quota.v1.session_service_pb2_grpc import SessionServiceAsyncStub
    from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceAsyncStub

Answer = TypeVar("Answer")

SAO_PAULO = "America/Sao_Paulo"
TO_BE_SWEPT = """
SELECT EXISTS (SELECT FROM reservations WHERE state = 1 AND expire_time <= clock_timestamp())
    OR EXISTS (SELECT FROM top_ups WHERE expire_time <= clock_timestamp() AND used + held + ended < tokens)
"""


def fresh(word: str) -> str:
    """An id nobody else in the session has."""
    return f"{word}-{uuid4().hex[:12]}"


async def new_tenant(
    pool: asyncpg.Pool,
    time_zone: str = AT_NOON,
    tokens_per_day: int | None = None,
    tokens_per_month: int | None = None,
) -> str:
    """A tenant of its own for one test, with these limits for the tenant as a whole."""
    tenant: Tenant = await Tenants(pool).create(fresh("tenant"), "Prefeitura de Exemplo", time_zone, None)
    await Quotas(pool).set(Quota(tenant.tenant_id, "", tokens_per_day, tokens_per_month))
    return tenant.tenant_id


async def new_user(
    pool: asyncpg.Pool,
    tenant_id: str,
    role: Role = Role.MEMBER,
    tokens_per_day: int | None = None,
    tokens_per_month: int | None = None,
) -> str:
    """A user of the tenant, with these limits."""
    user_id = fresh("user")
    await Tenants(pool).create_user(tenant_id, user_id, "Maria", f"{user_id}@example.org", role, None)
    await Quotas(pool).set(Quota(tenant_id, user_id, tokens_per_day, tokens_per_month))
    return user_id


def wish(
    tenant_id: str,
    tokens: int,
    *,
    minimum: int = 0,
    user_id: str = "",
    lease_seconds: int = 60,
    request_id: str = "",
    fingerprint: bytes = b"the same",
) -> Wish:
    """Tokens somebody wants."""
    return Wish(
        tenant_id=tenant_id,
        user_id=user_id,
        key_id="key",
        reservation_id=new_id(),
        tokens=tokens,
        minimum=minimum or tokens,
        lease_seconds=lease_seconds,
        model="model",
        conversation_id="conversation",
        assistant_id="assistant",
        replay=Replay(request_id, fingerprint) if request_id else None,
    )


def commit(tenant_id: str, reservation_id: str, tokens: int, *, cost_micros: int = 0) -> Settlement:
    """A settlement with `tokens` spread over all components."""
    share = tokens // 4
    usage = TokenUsage(tokens - 3 * share, share, share, share)
    return Settlement(tenant_id, reservation_id, State.COMMITTED, usage, 1, cost_micros)


def release(tenant_id: str, reservation_id: str) -> Settlement:
    """Everything back."""
    return Settlement(tenant_id, reservation_id, State.RELEASED)


async def sweep_all(pool: asyncpg.Pool, store: Reservations) -> None:
    """Until no lease that has ended holds anything and no top-up that has ended gives; others may be at it too."""
    while True:
        await store.sweep(50)
        async with tenant_transaction(pool, "*") as connection:
            if not await connection.fetchval(TO_BE_SWEPT):
                return


async def leases_end(pool: asyncpg.Pool, tenant_id: str) -> None:
    """The leases of all that the tenant holds end now: a test that waited for them would race with what it does."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(
            "UPDATE reservations SET expire_time = clock_timestamp() WHERE tenant_id = $1 AND state = 1", tenant_id
        )


async def key_ends(pool: asyncpg.Pool, tenant_id: str, key_id: str) -> None:
    """The key expires now."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute("UPDATE api_keys SET expire_time = clock_timestamp() WHERE key_id = $1", key_id)


async def insisting(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer of whoever asks again, as clients do, while others have what it waits for locked for too long."""
    while True:
        try:
            return await ask()
        except (Conflict, grpc.aio.AioRpcError) as error:
            if isinstance(error, grpc.aio.AioRpcError) and error.code() is not grpc.StatusCode.ABORTED:
                raise


@dataclass(frozen=True)
class Counters:
    """What is used and held of the tenant as a whole, this month."""

    used: int
    held: int


async def counters(pool: asyncpg.Pool, tenant_id: str, user_id: str = "") -> Counters:
    """The month's counters; those of the day must be the same, as long as no midnight comes between."""
    usages = await Quotas(pool).usage(tenant_id, user_id)
    day, month = usages[-2:]
    assert (day.used_tokens, day.held_tokens) == (month.used_tokens, month.held_tokens)
    return Counters(month.used_tokens, month.held_tokens)


async def nothing_held(pool: asyncpg.Pool, tenant_id: str) -> bool:
    """Whether nothing of the tenant is held any more."""
    return (await counters(pool, tenant_id)).held == 0


@dataclass(frozen=True)
class Platform:
    """The service behind the wire, and the callers that call it."""

    channel: grpc.aio.Channel
    keys: SigningKeys
    pool: asyncpg.Pool
    admin_key: str
    service_key: str

    @property
    def tenants(self) -> "TenantServiceAsyncStub":
        return TenantServiceStub(self.channel)

    @property
    def sessions(self) -> "SessionServiceAsyncStub":
        return SessionServiceStub(self.channel)

    @property
    def quotas(self) -> "QuotaServiceAsyncStub":
        return QuotaServiceStub(self.channel)

    @property
    def plans(self) -> "PlanServiceAsyncStub":
        return PlanServiceStub(self.channel)

    @property
    def prices(self) -> "PriceServiceAsyncStub":
        return PriceServiceStub(self.channel)

    def admin(self) -> Metadata:
        """A platform administrator."""
        return as_caller(token(self.keys, scopes=PERMISSIONS[Role.PLATFORM_ADMIN]))

    def caller(self, tenant_id: str, role: Role, user_id: str = "") -> Metadata:
        """Somebody of the tenant."""
        scopes = PERMISSIONS[role]
        return as_caller(token(self.keys, tenant_id=tenant_id, user_id=user_id, scopes=scopes))

    def holder(self, tenant_id: str, user_id: str = "") -> Metadata:
        """An internal service that acts for somebody of the tenant."""
        scopes = {"quota.reserve", "quota.read"}
        return as_caller(token(self.keys, tenant_id=tenant_id, user_id=user_id, scopes=scopes))


@dataclass(frozen=True)
class Refusal:
    """An error as a client gets it."""

    code: grpc.StatusCode
    status: status_pb2.Status

    @property
    def reason(self) -> str:
        return str(self._info().reason)

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self._info().metadata)

    @property
    def fields(self) -> list[str]:
        """The fields that were wrong."""
        bad = error_details_pb2.BadRequest()
        self._unpack(bad)
        return [violation.field for violation in bad.field_violations]

    @property
    def quota_subjects(self) -> Sequence[str]:
        failure = error_details_pb2.QuotaFailure()
        self._unpack(failure)
        return [violation.subject for violation in failure.violations]

    @property
    def retry_seconds(self) -> float:
        retry = error_details_pb2.RetryInfo()
        assert self._unpack(retry)
        return float(retry.retry_delay.ToMilliseconds() / 1000)

    def without_trace(self) -> bytes:
        """The status without the id of its request, which differs by nature."""
        kept = status_pb2.Status(code=self.status.code, message=self.status.message)
        kept.details.extend(
            each for each in self.status.details if not each.Is(error_details_pb2.RequestInfo.DESCRIPTOR)
        )
        return bytes(kept.SerializeToString(deterministic=True))

    def _info(self) -> error_details_pb2.ErrorInfo:
        info = error_details_pb2.ErrorInfo()
        assert self._unpack(info)
        return info

    def _unpack(self, into: Message) -> bool:
        return any(detail.Unpack(into) for detail in self.status.details)


async def refusal(call: Awaitable[object]) -> Refusal:
    """The error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert isinstance(status, status_pb2.Status), caught.value
    return Refusal(caught.value.code(), status)
