"""Conversations that are analysed without anybody asking: when they are finalized, or when nothing was said for long.

The intake wishes for an analysis when a conversation is finalized or comes to rest. A tenant's own time-out may be
shorter or longer than that rest: then the conversation is due at another time, which is kept until it is analysed.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from pymongo import ASCENDING

from services.analytics.analyses.analysis_store import AnalysisStore
from services.analytics.analyses.analyze import Analyses
from services.analytics.analyses.conversations import Conversations
from services.analytics.analyses.model import NothingToAnalyse, Transcript, Trigger
from services.analytics.model import Wish
from services.analytics.rollups.projection import Projection
from shared.errors import NotFound, ServiceError
from shared.mongo import MongoDatabase, mongo_errors
from shared.telemetry import get_logger

DUE = "analyses_due"
# How long one who took a conversation may take to analyse it before another one does.
_TAKEN = timedelta(minutes=2)
_AT_ONCE = 200

_log = get_logger()


class Unasked:
    """Fulfils the wishes of the intake, and keeps tenants' own time-outs."""

    def __init__(
        self,
        database: MongoDatabase,
        projection: Projection,
        store: AnalysisStore,
        analyses: Analyses,
        conversations: Conversations,
        now: Callable[[], datetime],
    ) -> None:
        self._due = database[DUE]
        self._projection = projection
        self._store = store
        self._analyses = analyses
        self._conversations = conversations
        self._now = now

    async def prepare(self) -> None:
        """Creates the index; again and again is fine."""
        with mongo_errors():
            await self._due.create_index([("due", ASCENDING)], name="due")

    async def fulfil(self, wish: Wish) -> None:
        """Analyses the conversation, once however often it is wished for; raises what an asked analysis raises."""
        if not _came_to_rest(wish):
            await self._analyses.analyze(wish.tenant_id, wish.conversation_id, Trigger.REQUESTED)
            return
        settings = await self._store.settings(wish.tenant_id)
        if not settings.automatic:
            return
        try:
            transcript = await self._conversations.transcript(wish.tenant_id, wish.conversation_id)
            if not transcript.utterances:
                return
            due = transcript.last.time + settings.idle_timeout
            if not transcript.finalized and due > self._now():
                await self._keep(wish.tenant_id, wish.conversation_id, due)
                return
            await self._analyse(transcript)
        except (NotFound, NothingToAnalyse):
            return

    async def analyse_what_is_due(self) -> None:
        """Analyses what rests for longer than its tenant's time-out. What fails is tried again later."""
        await self._find_those_at_rest()
        for _ in range(_AT_ONCE):
            taken = await self._take()
            if taken is None:
                return
            tenant_id, conversation_id = taken
            try:
                await self._analyses.automatically(tenant_id, conversation_id, Trigger.IDLE)
            except NotFound:
                pass
            except ServiceError as error:
                _log.warning("analysis_put_off", reason=error.reason)
                continue
            with mongo_errors():
                await self._due.delete_one({"_id": _place(tenant_id, conversation_id)})

    async def _analyse(self, transcript: Transcript) -> None:
        trigger = Trigger.FINALIZED if transcript.finalized else Trigger.IDLE
        await self._analyses.automatically(transcript.tenant_id, transcript.conversation_id, trigger)

    async def _keep(self, tenant_id: str, conversation_id: str, due: datetime) -> None:
        with mongo_errors():
            await self._due.update_one({"_id": _place(tenant_id, conversation_id)}, {"$set": {"due": due}}, upsert=True)

    async def _take(self) -> tuple[str, str] | None:
        """The conversation that is due for longest, put off for everybody else."""
        now = self._now()
        with mongo_errors():
            found = await self._due.find_one_and_update(
                {"due": {"$lte": now}}, {"$set": {"due": now + _TAKEN}}, sort=[("due", ASCENDING)]
            )
        return (found["_id"]["tenant_id"], found["_id"]["conversation_id"]) if found else None

    async def _find_those_at_rest(self) -> None:
        """Of tenants with a time-out of their own, open sessions that have rested for longer than that."""
        sessions, now = (await self._projection.current()).sessions, self._now()
        for tenant_id, timeout in await self._store.own_timeouts():
            at_rest = {"open": True, "end": {"$lt": now - timeout}, "_id.tenant_id": tenant_id}
            with mongo_errors():
                resting = [each async for each in sessions.find(at_rest, {"end": 1}).limit(_AT_ONCE)]
            for session in resting:
                conversation_id = session["_id"]["conversation_id"]
                newest = await self._store.newest(tenant_id, conversation_id)
                if newest is None or newest.last_time < session["end"]:
                    await self._keep(tenant_id, conversation_id, now)


def _came_to_rest(wish: Wish) -> bool:
    """Whether the intake made the wish itself; a producer's own wish of such a name is fulfilled the same way."""
    return wish.event_id.startswith(f"outside:{wish.tenant_id}:rest-")


def _place(tenant_id: str, conversation_id: str) -> dict[str, str]:
    return {"tenant_id": tenant_id, "conversation_id": conversation_id}
