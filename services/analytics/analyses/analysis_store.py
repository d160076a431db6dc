"""Analyses, corrections and settings in MongoDB. A new version and what it does to the topic map are one commit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError, OperationFailure

from services.analytics.analyses.budget import Budget
from services.analytics.analyses.documents import analysis_document, analysis_in
from services.analytics.analyses.examples import MOST_EXAMPLES, Example
from services.analytics.analyses.model import Analysis, Settings, Step
from services.analytics.analyses.topic_map import TopicMap
from services.analytics.rollups.commits import committed
from shared.errors import Conflict, NotFound, RequestIdReused, Unavailable
from shared.mongo import MongoDatabase, MongoSession, aggregate, mongo_errors

ANALYSES = "analyses"
EXAMPLES = "analysis_examples"
SETTINGS = "analysis_settings"
REQUESTS = "analysis_requests"
# Of what was forgotten only what it cost is kept.
_KEPT_WHOLE = {"version": {"$gt": 0}}
BY_CONVERSATION, BY_TIME = "kept_versions", "by_time"
# What one page may look at: a filter that hardly anything passes must not read a tenant's whole past in one call.
MOST_EXAMINED = 5_000
_REQUESTS_KEPT = timedelta(days=7)
# What is younger is still in the hands of whoever made it.
UNFINISHED_AFTER = timedelta(seconds=60)
_BAD_VALUE = 2


# When the last message was stored, and the version's id.
Place = tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which analyses of a tenant are listed: all that is set must hold; `before` is where the last page ended."""

    tenant_id: str
    equal: Mapping[str, str]
    conversation_id: str = ""
    start: datetime | None = None
    end: datetime | None = None
    all_versions: bool = False
    before: Place | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Analyses; `looked_until` is set where no more were looked at although fewer were found than asked for."""

    found: Sequence[Analysis]
    looked_until: Place | None


class AnalysisStore:
    """The only writer of analyses."""

    def __init__(self, database: MongoDatabase, topic_map: TopicMap, budget: Budget) -> None:
        self._database = database
        self._analyses = database[ANALYSES]
        self._examples = database[EXAMPLES]
        self._settings = database[SETTINGS]
        self._requests = database[REQUESTS]
        self._topic_map = topic_map
        self._budget = budget

    async def prepare(self) -> None:
        """Creates the indexes; again and again is fine."""
        versions = [("tenant_id", ASCENDING), ("conversation_id", ASCENDING), ("version", DESCENDING)]
        by_time = [("tenant_id", ASCENDING), ("newest", ASCENDING), ("last_time", DESCENDING), ("_id", DESCENDING)]
        with mongo_errors():
            await self._analyses.create_index(
                versions, unique=True, partialFilterExpression=_KEPT_WHOLE, name=BY_CONVERSATION
            )
            await self._analyses.create_index(by_time, name=BY_TIME)
            await self._analyses.create_index(
                [("look_again", ASCENDING)],
                partialFilterExpression={"pending.0": {"$exists": True}},
                name="unfinished",
            )
            await self._examples.create_index([("tenant_id", ASCENDING), ("time", DESCENDING)], name="newest")
            await self._requests.create_index("expire_time", expireAfterSeconds=0, name="expire")
        await self._topic_map.prepare()
        await self._budget.prepare()

    async def get(self, tenant_id: str, analysis_id: str) -> Analysis:
        """NotFound when the tenant has no such version."""
        found = await self._find_one({"_id": analysis_id, "tenant_id": tenant_id})
        if found is None:
            raise NotFound("analysis", analysis_id)
        return found

    async def newest(self, tenant_id: str, conversation_id: str) -> Analysis | None:
        """The version that counts."""
        with mongo_errors():
            document = await self._analyses.find_one(
                {"tenant_id": tenant_id, "conversation_id": conversation_id, **_KEPT_WHOLE},
                sort=[("version", DESCENDING)],
            )
        return analysis_in(document) if document else None

    async def add(self, analysis: Analysis) -> Analysis:
        """Keeps the analysis as the newest version; one that is kept already is returned as it is.

        Conflict when another version came first. Names of topics become those of the tenant's topic map.
        """
        kept = await self._find_one({"_id": analysis.analysis_id, "tenant_id": analysis.tenant_id})
        if kept is not None:
            return kept
        return await committed(self._database, lambda session: self._write_or_race(analysis, session))

    async def _write_or_race(self, analysis: Analysis, session: MongoSession) -> Analysis:
        try:
            return await self._write(analysis, session)
        except DuplicateKeyError:  # the same version, or a new topic of that name, came first: the next try sees it
            raise Conflict("another analysis was first") from None

    async def _write(self, analysis: Analysis, session: MongoSession) -> Analysis:
        before = await self._analyses.find_one(
            {"tenant_id": analysis.tenant_id, "conversation_id": analysis.conversation_id, **_KEPT_WHOLE},
            sort=[("version", DESCENDING)],
            session=session,
        )
        if before and before["version"] >= analysis.version:
            raise VersionTakenError
        named = replace(analysis, findings=await self._topic_map.named(analysis, session))
        if before:
            await self._analyses.update_one({"_id": before["_id"]}, {"$set": {"newest": False}}, session=session)
            await self._topic_map.count(analysis_in(before), -1, session)
        document = {**analysis_document(named), "look_again": named.create_time + UNFINISHED_AFTER}
        await self._analyses.insert_one(document, session=session)
        await self._topic_map.count(named, 1, session)
        if analysis.spent.reservation_id:
            await self._budget.put_right(analysis.tenant_id, analysis.analysis_id, analysis.spent.tokens, session)
        return named

    async def done(self, analysis_id: str, step: Step) -> None:
        """The step need not be done again."""
        with mongo_errors():
            await self._analyses.update_one({"_id": analysis_id}, {"$pull": {"pending": step.value}})

    async def unfinished(self, now: datetime, most: int) -> list[Analysis]:
        """Analyses of which something is still to be done, and whose maker should have done it by now."""
        query = {"pending.0": {"$exists": True}, "look_again": {"$lt": now}}
        with mongo_errors():
            found = self._analyses.find(query).sort("look_again", ASCENDING).limit(most)
            return [analysis_in(each) async for each in found]

    async def put_off(self, analysis_id: str, until: datetime) -> None:
        """What is still to be done about it cannot be done now."""
        with mongo_errors():
            await self._analyses.update_one({"_id": analysis_id}, {"$set": {"look_again": until}})

    async def page(self, wanted: Wanted, size: int) -> Page:
        """The analyses of the last active conversations first, `size` at the most, of MOST_EXAMINED looked at."""
        looked_at, order = _looked_at(wanted), {"last_time": DESCENDING, "_id": DESCENDING}
        pipeline: list[Mapping[str, Any]] = [
            {"$match": looked_at},
            {"$sort": order},
            {"$limit": MOST_EXAMINED},
            {"$match": wanted.equal},
            {"$limit": size},
        ]
        # By its own choice MongoDB looks for one conversation among all of the tenant's.
        hint = BY_CONVERSATION if wanted.conversation_id else BY_TIME
        with mongo_errors(), _indexes_expected():
            documents = aggregate(self._analyses, pipeline, hint=hint)
            found = [analysis_in(each) async for each in documents]
            if len(found) == size:
                return Page(found, None)
            last = self._analyses.find(looked_at, {"last_time": 1}, hint=hint).sort(list(order.items()))
            places = [(each["last_time"], each["_id"]) async for each in last.skip(MOST_EXAMINED - 1).limit(1)]
        return Page(found, places[0] if places else None)

    async def examples(self, tenant_id: str) -> list[Example]:
        """What the tenant's people corrected, the newest first."""
        cursor = self._examples.find({"tenant_id": tenant_id}).sort("time", DESCENDING).limit(MOST_EXAMPLES)
        with mongo_errors():
            return [Example(frozenset(each["digests"]), each["labels"]) async for each in cursor]

    async def learn(self, tenant_id: str, conversation_id: str, example: Example, now: datetime) -> None:
        """Keeps what was said of a conversation in the place of what was said of it before."""
        document = {"digests": sorted(example.digests), "labels": dict(example.labels), "time": now}
        with mongo_errors():
            await self._examples.update_one(
                {"_id": {"tenant_id": tenant_id, "conversation_id": conversation_id}},
                {"$set": {"tenant_id": tenant_id, **document}},
                upsert=True,
            )

    async def settings(self, tenant_id: str) -> Settings:
        """The tenant's settings, those of the beginning where it set none."""
        with mongo_errors():
            kept = await self._settings.find_one({"_id": tenant_id}, {"_id": 0}) or {}
        if "idle_timeout_seconds" in kept:
            kept["idle_timeout"] = timedelta(seconds=kept.pop("idle_timeout_seconds"))
        return Settings(**kept)

    async def people_shown(self, tenant_id: str) -> int:
        """Below how many people a group of the tenant is not shown."""
        return (await self.settings(tenant_id)).k_anonymity

    async def own_timeouts(self) -> list[tuple[str, timedelta]]:
        """The tenants that have set an idle time-out of their own, and it."""
        query = {"idle_timeout_seconds": {"$exists": True}, "automatic": {"$ne": False}}
        with mongo_errors():
            found = [each async for each in self._settings.find(query, {"idle_timeout_seconds": 1})]
        return [(each["_id"], timedelta(seconds=each["idle_timeout_seconds"])) for each in found]

    async def change_settings(self, tenant_id: str, changes: Mapping[str, Any]) -> Settings:
        """Sets what is in `changes`, named as in Settings."""
        kept = {name: value for name, value in changes.items() if name != "idle_timeout"}
        if "idle_timeout" in changes:
            kept["idle_timeout_seconds"] = changes["idle_timeout"].total_seconds()
        if kept:
            with mongo_errors():
                await self._settings.update_one({"_id": tenant_id}, {"$set": kept}, upsert=True)
        return await self.settings(tenant_id)

    async def asked_before(self, tenant_id: str, request_id: str, fingerprint: str) -> Analysis | None:
        """What the request made the first time; RequestIdReused when it said something else then."""
        with mongo_errors():
            kept = await self._requests.find_one({"_id": {"tenant_id": tenant_id, "request_id": request_id}})
        if kept is None:
            return None
        if kept["fingerprint"] != fingerprint:
            raise RequestIdReused
        return await self.get(tenant_id, kept["analysis_id"])

    async def remember(self, analysis: Analysis, request_id: str, fingerprint: str, now: datetime) -> None:
        """Remembers for a week what the request made."""
        made = {"fingerprint": fingerprint, "analysis_id": analysis.analysis_id, "expire_time": now + _REQUESTS_KEPT}
        try:
            with mongo_errors():
                await self._requests.insert_one(
                    {"_id": {"tenant_id": analysis.tenant_id, "request_id": request_id}, **made}
                )
        except DuplicateKeyError:
            return

    async def forget_conversations(self, tenant_id: str, conversation_ids: Sequence[str]) -> int:
        """Erases all that is known of some conversations; how many versions there were. Sums stay as they are.

        Of what was charged the tokens are kept, so that the ledger is still explained.
        """
        return await committed(self._database, lambda session: self._forget(tenant_id, conversation_ids, session))

    async def forget_user(self, tenant_id: str, user_id: str) -> int:
        """Erases a user's analyses and examples, and the user's name from what others had; sums stay as they are."""
        theirs = {"tenant_id": tenant_id, "user_id": user_id}
        with mongo_errors():
            conversation_ids = await self._analyses.distinct("conversation_id", theirs)
            await self._analyses.update_many(
                {"tenant_id": tenant_id, "corrected_by": user_id}, {"$set": {"corrected_by": ""}}
            )
        await self._topic_map.forget(tenant_id, user_id)
        return await self.forget_conversations(tenant_id, conversation_ids)

    async def _forget(self, tenant_id: str, conversation_ids: Sequence[str], session: MongoSession) -> int:
        places = [{"tenant_id": tenant_id, "conversation_id": each} for each in conversation_ids]
        await self._examples.delete_many({"_id": {"$in": places}}, session=session)
        theirs = {"tenant_id": tenant_id, "conversation_id": {"$in": list(conversation_ids)}, **_KEPT_WHOLE}
        charged = {**theirs, "spent.reservation_id": {"$gt": ""}, "pending": {"$ne": Step.CHARGE.value}}
        paid = [each async for each in self._analyses.find(charged, {"tenant_id": 1, "spent": 1}, session=session)]
        gone = await self._analyses.delete_many(theirs, session=session)
        if paid:
            await self._analyses.insert_many([{**each, "pending": []} for each in paid], session=session)
        return int(gone.deleted_count)

    async def _find_one(self, query: Mapping[str, Any]) -> Analysis | None:
        with mongo_errors():
            document = await self._analyses.find_one({**query, **_KEPT_WHOLE})
        return analysis_in(document) if document else None


def _looked_at(wanted: Wanted) -> dict[str, Any]:
    """What is looked at: all conditions that an index answers."""
    query: dict[str, Any] = {"tenant_id": wanted.tenant_id}
    if wanted.conversation_id:
        query |= {"conversation_id": wanted.conversation_id, **_KEPT_WHOLE}
    # Both are named, because the index is in the order of time for each of them.
    query["newest"] = {"$in": [True, False] if wanted.all_versions else [True]}
    times = {"$gte": wanted.start, "$lt": wanted.end}
    if bounds := {sign: time for sign, time in times.items() if time}:
        query["last_time"] = bounds
    if wanted.before:
        time, analysis_id = wanted.before
        query["$or"] = [{"last_time": {"$lt": time}}, {"last_time": time, "_id": {"$lt": analysis_id}}]
        query["last_time"] = {**bounds, "$lte": time}
    return query


class VersionTakenError(Exception):
    """Another version of the conversation came first: read again and decide anew."""


def race_lost() -> Conflict:
    """What a caller sees who lost too many races."""
    return Conflict("the conversation is being analysed by others")


@contextmanager
def _indexes_expected() -> Iterator[None]:
    """Unavailable while the indexes by which this is read are to be made yet: in the first moments of a database."""
    try:
        yield
    except OperationFailure as error:
        if error.code == _BAD_VALUE:
            raise Unavailable("the indexes are being made", dependency="mongodb") from error
        raise
