"""The whole of analytics' intake on the session's engines, as the composition root puts it together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from services.analytics.admin.forgetting import Forgetting
from services.analytics.admin.handlers import AdminHandlers, admin_endpoint
from services.analytics.admin.rebuild import Rebuilding
from services.analytics.admin.replaying import Replaying
from services.analytics.admin.retention import Retentions
from services.analytics.config import Config
from services.analytics.intake.handlers import metrics_endpoint
from services.analytics.intake.pipeline import Intake, intake_of, running
from services.analytics.intake.works import Forget, Fulfil
from services.analytics.rollups.projection import Projection
from shared.clock import SystemClock
from shared.mongo import MongoDatabase
from shared.server import Endpoint
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys


class Site:
    """One process of analytics: its intake, and what administrators may ask it."""

    def __init__(
        self,
        database: MongoDatabase,
        redis: Any,
        *,
        name: str = "site",
        source: Any = None,
        fulfil: Fulfil | None = None,
        forget: Forget | None = None,
    ) -> None:
        self.projection = Projection(database)
        self.intake: Intake = intake_of(database, redis, self.projection, consumer=name, fulfil=fulfil, forget=forget)
        self.retentions = Retentions(database, self.projection)
        self.rebuilding = Rebuilding(database, self.projection, source, settled_seconds=0.1)
        self.forgetting = Forgetting(database, self.projection, self.intake.letters, _no_analyses)

    def endpoints(self) -> list[Endpoint]:
        """MetricsService and AdminService."""
        replaying = Replaying(self.intake.letters)
        admin = AdminHandlers(replaying, self.rebuilding, self.forgetting, self.retentions)
        return [metrics_endpoint(self.intake.inbox, SystemClock()), admin_endpoint(admin)]

    @asynccontextmanager
    async def working(self, **settings: Any) -> AsyncIterator[None]:
        """The workers, running."""
        config = Config(worker_block_ms=20, **{"worker_claim_idle_seconds": 0.3, **settings})
        async with running(self.intake, config):
            yield


async def _no_analyses(_tenant_id: str, _user_id: str) -> int:
    return 0


def caller(keys: SigningKeys, tenant_id: str = "acme") -> dict[str, Any]:
    """A caller who may do everything in the tenant."""
    scopes = ["metrics.write", "metrics.admin", "projection.rebuild", "privacy.manage", "retention.manage"]
    return {"metadata": as_caller(token(keys, tenant_id=tenant_id, scopes=scopes)), "timeout": 30}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 the engines tell nobody
            await asyncio.sleep(0.02)


async def kept(database: MongoDatabase, generation: str = "") -> dict[str, dict[str, Any]]:
    """All figures as they lie in MongoDB, what is 0 left out: two projections that hold the same are equal."""
    found = {}
    for name in ("rollups", "series"):
        async for document in database[name + generation].find():
            place = repr((name, sorted(document.pop("_id").items())))
            if figures := {key: value for key, value in document.items() if value and key not in ("tenant_id",)}:
                found[place] = figures
    return found
