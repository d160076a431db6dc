"""A tenant's topic map: which names mean one topic, and how many conversations and people each has. Counted exactly.

A topic bears the name under which it came first. Another name is the same topic when it has the same words (case,
accents, inflection, order and function words apart) or three fifths of its three-letter pieces in common; it becomes an
alias then.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pymongo import ASCENDING, DESCENDING

from services.analytics.analyses.model import Analysis, Findings, TopicSums
from services.analytics.content.topics import SAME_SIMILARITY, similarity, topic_key
from services.analytics.rollups.sketches import digest_of
from shared.mongo import MongoCollection, MongoDatabase, MongoSession, mongo_errors

TOPICS = "topics"
MEMBERS = "topic_members"
MOST_TOPICS = 1000
_MOST_ALIASES = 20


class TopicMap:
    """The only writer of topics."""

    def __init__(self, database: MongoDatabase) -> None:
        self._topics: MongoCollection = database[TOPICS]
        self._members: MongoCollection = database[MEMBERS]

    async def prepare(self) -> None:
        """Creates the indexes; a key belongs to one topic of a tenant."""
        with mongo_errors():
            await self._topics.create_index([("tenant_id", ASCENDING), ("keys", ASCENDING)], unique=True, name="keys")
            # In the order of the list, so that no more is read than shown.
            await self._topics.create_index(
                [("tenant_id", ASCENDING), ("conversations", DESCENDING), ("name", ASCENDING)], name="most_frequent"
            )
            await self._members.create_index([("_id.tenant_id", ASCENDING), ("_id.who", ASCENDING)], name="who")

    async def named(self, analysis: Analysis, session: MongoSession) -> Findings:
        """The findings with topics called as in the map, which learns what it did not know."""
        findings = analysis.findings
        names: dict[str, str] = {}
        for name in dict.fromkeys([findings.main_topic, *(topic.name for topic in findings.topics)]):
            main = name == findings.main_topic
            names[name] = await self._name(analysis.tenant_id, name, session, learn=main) if name else ""
        topics = tuple(replace(topic, name=names[topic.name]) for topic in findings.topics)
        distinct = {topic.name: topic for topic in reversed(topics)}
        kept = tuple(topic for topic in topics if distinct[topic.name] is topic)
        return replace(findings, main_topic=names[findings.main_topic], topics=kept)

    async def count(self, analysis: Analysis, sign: int, session: MongoSession) -> None:
        """Adds the conversation to its main topic, or (-1) takes it away."""
        name = analysis.findings.main_topic
        if not name:
            return
        place = {"tenant_id": analysis.tenant_id, "name": name}
        users = await self._member(analysis, name, sign, session)
        sums = {"conversations": sign, analysis.findings.sentiment.value: sign, "users": users}
        await self._topics.update_one(place, {"$inc": sums}, session=session)

    async def _member(self, analysis: Analysis, name: str, sign: int, session: MongoSession) -> int:
        """How many people more the topic has by this conversation."""
        member = {"_id": {"tenant_id": analysis.tenant_id, "topic": name, "who": str(digest_of(analysis.who))}}
        before = await self._members.find_one(member, session=session)
        conversations = (before["conversations"] if before else 0) + sign
        if conversations <= 0:
            await self._members.delete_one(member, session=session)
        else:
            await self._members.update_one(
                member, {"$set": {"conversations": conversations}}, upsert=True, session=session
            )
        return (conversations > 0) - (before is not None)

    async def forget(self, tenant_id: str, user_id: str) -> None:
        """Forgets which topics a user spoke about; how many people did stays as it is."""
        with mongo_errors():
            await self._members.delete_many({"_id.tenant_id": tenant_id, "_id.who": str(digest_of(user_id))})

    async def read(self, tenant_id: str, most: int = MOST_TOPICS) -> list[TopicSums]:
        """The topics that conversations have, the most frequent first."""
        query = {"tenant_id": tenant_id, "conversations": {"$gt": 0}}
        cursor = self._topics.find(query).sort([("conversations", DESCENDING), ("name", ASCENDING)]).limit(most)
        with mongo_errors():
            return [_sums(document) async for document in cursor]

    async def shown(self, tenant_id: str, floor: int) -> frozenset[str]:
        """The names that may be shown: topics that at least so many people spoke about."""
        return frozenset(topic.name for topic in await self.read(tenant_id) if topic.users >= floor)

    async def _name(self, tenant_id: str, name: str, session: MongoSession, *, learn: bool) -> str:
        key = topic_key(name)
        known = await self._topics.find_one({"tenant_id": tenant_id, "keys": key}, {"name": 1}, session=session)
        if known:
            return str(known["name"])
        like = await self._most_alike(tenant_id, key, session)
        if like is None:
            if learn:
                await self._topics.insert_one(_new(tenant_id, name, key), session=session)
            return name
        if learn and len(like["aliases"]) < _MOST_ALIASES:
            change = {"$addToSet": {"keys": key, "aliases": name}}
            await self._topics.update_one({"_id": like["_id"]}, change, session=session)
        return str(like["name"])

    async def _most_alike(self, tenant_id: str, key: str, session: MongoSession) -> Any:
        best, most = None, SAME_SIMILARITY
        fields = {"name": 1, "keys": 1, "aliases": 1}
        async for topic in self._topics.find({"tenant_id": tenant_id}, fields, session=session).limit(MOST_TOPICS):
            likeness = _likeness(key, topic["keys"][:1])
            if likeness >= most and (best is None or likeness > most):
                best, most = topic, likeness
        return best


def _likeness(key: str, keys: Sequence[str]) -> float:
    """To the first name only: likeness to an alias would let topics drift into one another."""
    return max((similarity(key, each) for each in keys), default=0.0)


def _new(tenant_id: str, name: str, key: str) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "name": name,
        "keys": [key],
        "aliases": [],
        "conversations": 0,
        "users": 0,
        "positivo": 0,
        "neutro": 0,
        "negativo": 0,
    }


def _sums(document: dict[str, Any]) -> TopicSums:
    return TopicSums(
        name=document["name"],
        aliases=tuple(document["aliases"]),
        conversations=document["conversations"],
        users=document["users"],
        positive=document["positivo"],
        neutral=document["neutro"],
        negative=document["negativo"],
    )
