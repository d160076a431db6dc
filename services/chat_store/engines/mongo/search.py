"""Search in MongoDB: an index over the terms of all appends, the newest first.

The word that the fewest messages have leads to the candidates; the server keeps of them what fits in all else, and of
their messages those that have all the words. How much is looked at is bounded, however common the words are.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.bodies import beginnings
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.engines.mongo.pages import MESSAGE_FIELDS, messages_now
from services.chat_store.engines.mongo.words import terms_in
from services.chat_store.model import Message
from services.chat_store.selection import (
    Found,
    Hit,
    HitPlace,
    Reach,
    Search,
    SearchOrder,
    is_conversation_id,
)
from services.chat_store.store import SEARCH_CANDIDATES
from services.chat_store.words import Word, rarity_of, scorer_of
from shared.mongo import aggregate, mongo_errors

# Most appends of which the server looks at more than the index, and up to which words are counted.
LOOKED_AT = 5_000
# From so many on the messages of a word are more than those of a typical conversation.
COMMON_IN_A_CONVERSATION = 500
# Appends whose conversations are looked up at once.
STRIDE = 200
# From so many messages on that may have any word no further append is looked at: each may take 30 ms.
LOOKED_THROUGH = 50


@dataclass(frozen=True, slots=True)
class _Way:
    """An index that leads to the candidates, what of them the server looks at, and whether that may be too little."""

    index: str
    match: Document
    sort: Document
    bounded: bool


class MongoSearch:
    """Search in one Mongo database."""

    def __init__(self, headers: MongoHeaders) -> None:
        self._headers = headers

    async def find(self, reach: Reach, search: Search) -> Found:
        """See ChatStore.search."""
        if not search.words or (search.conversation_id and not is_conversation_id(search.conversation_id)):
            return Found((), more=False, partial=False)
        with mongo_errors():
            counts = await asyncio.gather(*(self._count(_word(reach, each), "words") for each in search.words))
            common = dict(zip(search.words, counts, strict=True))
            if search.order is SearchOrder.RECENCY:
                return await self._newest(reach, search, common)
            return await self._best(reach, search, common)

    async def _best(self, reach: Reach, search: Search, common: Mapping[Word, int]) -> Found:
        """Of the newest candidates those that fit best."""
        way = await self._way(reach, search, common)
        hits, more = await self._candidates(reach, search, way, SEARCH_CANDIDATES)
        # As a power of two, so that a message more between two pages moves nothing.
        rarity = {word: rarity_of(1 << count.bit_length(), 2 * LOOKED_AT) for word, count in common.items()}
        ranked = await asyncio.to_thread(_ranked, hits, search, rarity)
        return Found(tuple(ranked[: search.limit]), more=len(ranked) > search.limit, partial=more)

    async def _newest(self, reach: Reach, search: Search, common: Mapping[Word, int]) -> Found:
        """The index is in this order already; without a hit among all that was looked at there is no going on."""
        way = await self._way(reach, search, common)
        hits, more = await self._candidates(reach, search, way, search.limit)
        return Found(tuple(hits), more=more and bool(hits), partial=more and not hits)

    async def _way(self, reach: Reach, search: Search, common: Mapping[Word, int]) -> _Way:
        rarest = min(common, key=common.__getitem__)
        within = _within(search)
        if search.conversation_id:
            key = documents.conversation_key(reach.tenant_id, search.conversation_id)
            index = "words" if common[rarest] < COMMON_IN_A_CONVERSATION else "_id_"
            match = {**documents.appends_of(key), **_word(reach, rarest), **within}
            return _Way(index, match, {"_id": -1}, bounded=False)
        of_user = {} if reach.user_id is None else {"user_slot": documents.user_slot(reach.user_id)}
        is_common = common[rarest] >= LOOKED_AT
        if of_user and is_common:
            own = {"tenant_id": reach.tenant_id, "user_id": reach.user_id}
            too_many = await self._count(own, "of_user") >= LOOKED_AT
            return _Way("of_user", {**own, **within}, {"create_time": -1}, too_many)
        return _Way("words", {**_word(reach, rarest), **within, **of_user}, {"create_time": -1}, is_common)

    async def _candidates(self, reach: Reach, search: Search, way: _Way, wanted: int) -> tuple[list[Hit], bool]:
        """The newest hits, and whether there may be others."""
        hits: list[Hit] = []
        looked = looked_through = 0
        stride = min(STRIDE, wanted + 1)
        options = {"hint": way.index, "batchSize": stride if wanted < SEARCH_CANDIDATES else SEARCH_CANDIDATES}
        appends = aggregate(self._headers.newest_appends, _pipeline(reach, search, way), **options)
        async with aclosing(appends):
            async for group in _grouped(appends, stride):
                if looked_through >= LOOKED_THROUGH:
                    return hits, True
                looked += len(group)
                looked_through += _having_any(group)
                hits += await self._hits(reach, search, group)
                if len(hits) > wanted:
                    return hits[:wanted], True
        return hits, way.bounded or looked > SEARCH_CANDIDATES

    async def _hits(self, reach: Reach, search: Search, appends: Sequence[Document]) -> list[Hit]:
        """The messages of the appends that fit, in the order of RECENCY."""
        shown = await self._shown(reach, search, appends)
        hits = list[Hit]()
        for append in appends:
            if append["conversation_id"] in shown:
                fitting = await self._fitting(search, append)
                hits += [Hit(append["conversation_id"], message, 0.0) for message in fitting]
        hits.sort(key=_moment, reverse=True)
        after = search.after if search.order is SearchOrder.RECENCY else None
        return [hit for hit in hits if after is None or _moment(hit) < _moment_of(after)]

    async def _fitting(self, search: Search, append: Document) -> list[Message]:
        """The messages of the append that fit; those that may have any word are looked through."""
        messages = await messages_now(self._headers.changes, append)
        found = {each["seq"]: messages[each["seq"] - append["first_seq"]] for each in append["words"]}
        doubtful = [found[each["seq"]] for each in append["words"] if each["any"]]
        lacking = await self._lacking(search, append, doubtful) if doubtful else set()
        return [message for seq, message in found.items() if seq not in lacking]

    async def _lacking(self, search: Search, append: Document, messages: Sequence[Message]) -> set[int]:
        """The places of those of the append's messages that lack a word."""
        drafts = [message.draft for message in messages]
        key = documents.conversation_key(append["tenant_id"], append["conversation_id"])
        terms = await terms_in(drafts, await beginnings(self._headers.bodies, key, append["since"], drafts))
        pairs = zip(messages, terms, strict=True)
        return {message.seq for message, own in pairs if any(word.terms.isdisjoint(own) for word in search.words)}

    async def _shown(self, reach: Reach, search: Search, appends: Iterable[Document]) -> set[str]:
        """Which of the conversations are there for the reader, and of a status that is wanted."""
        keys = {documents.conversation_key(reach.tenant_id, append["conversation_id"]) for append in appends}
        found = self._headers.conversations.find({"_id": {"$in": sorted(keys)}}, documents.FACTS)
        conversations, at = map(documents.conversation_of, await found.to_list(None)), self._headers.now()
        return {
            each.conversation_id for each in conversations if each.status in search.statuses and reach.shows(each, at)
        }

    async def _count(self, wanted: Document, index: str) -> int:
        """How many appends there are of that kind, by the index alone, up to LOOKED_AT."""
        return int(await self._headers.newest_appends.count_documents(wanted, limit=LOOKED_AT, hint=index))


def _ranked(hits: Iterable[Hit], search: Search, rarity: Mapping[Word, float]) -> list[Hit]:
    score = scorer_of(rarity)
    scored = [replace(hit, score=score(hit.message.draft.words)) for hit in hits]
    after = None if search.after is None else (search.after.score, *_moment_of(search.after))
    beyond = [hit for hit in scored if after is None or (hit.score, *_moment(hit)) < after]
    return sorted(beyond, key=lambda hit: (hit.score, *_moment(hit)), reverse=True)


def _moment(hit: Hit) -> tuple[datetime, str, int]:
    return _moment_of(hit.place)


def _moment_of(place: HitPlace) -> tuple[datetime, str, int]:
    return place.time, place.conversation_id, place.seq


async def _grouped(appends: AsyncGenerator[Document, None], stride: int) -> AsyncGenerator[list[Document], None]:
    """Several appends at once; those of one moment together, because their order among them is another one."""
    group: list[Document] = []
    having_any = 0
    async for append in appends:
        full = len(group) >= stride or having_any >= LOOKED_THROUGH
        if full and append["create_time"] != group[-1]["create_time"]:
            yield group
            group, having_any = [], 0
        group.append(append)
        having_any += _having_any([append])
    if group:
        yield group


def _having_any(appends: Iterable[Document]) -> int:
    """How many messages may have any word."""
    return sum(found["any"] for append in appends for found in append["words"])


def _pipeline(reach: Reach, search: Search, way: _Way) -> list[Document]:
    return [
        {"$match": way.match},
        {"$sort": way.sort},
        {"$limit": LOOKED_AT},
        {"$match": _fitting(reach, search)},
        {"$limit": SEARCH_CANDIDATES + 1},
        {"$project": {**MESSAGE_FIELDS, "since": 1, "words": _found_words(search)}},
    ]


def _word(reach: Reach, word: Word) -> Document:
    """Appends with a message that has the word."""
    return {"tenant_id": reach.tenant_id, "words.terms": {"$in": _terms(word)}}


def _terms(word: Word) -> list[str]:
    return [*sorted(word.terms), documents.ANY_TERM]


def _within(search: Search) -> Document:
    """The times that are wanted."""
    latest = search.after.time if search.after is not None and search.order is SearchOrder.RECENCY else None
    bounds = {"$gte": search.created.start, "$lt": search.created.end, "$lte": latest}
    wanted = {operator: bound for operator, bound in bounds.items() if bound is not None}
    return {"create_time": wanted} if wanted else {}


def _fitting(reach: Reach, search: Search) -> Document:
    """Appends within reach with one message that has all the words, of a conversation and a type that are wanted."""
    words: list[Document] = [{"terms": {"$in": _terms(word)}} for word in search.words]
    of_type: Document = {"type": {"$in": _types(search)}}
    whose = {
        "user_id": reach.user_id,
        "conversation_id": search.conversation_id or None,
        "assistant_id": search.assistant_id or None,
        "team_id": search.team_id or None,
    }
    wanted = {name: value for name, value in whose.items() if value is not None}
    return {**wanted, "words": {"$elemMatch": {"$and": [*words, of_type]}}}


def _found_words(search: Search) -> Document:
    """Of an append's messages those that fit, and whether that is only because they may have any word."""
    has_words = [
        {"$or": [{"$in": [{"$literal": term}, "$$each.terms"]} for term in _terms(word)]} for word in search.words
    ]
    of_type = {"$in": ["$$each.type", _types(search)]}
    fitting = {"$filter": {"input": "$words", "as": "each", "cond": {"$and": [*has_words, of_type]}}}
    may_have_any = {"$in": [documents.ANY_TERM, "$$each.terms"]}
    return {"$map": {"input": fitting, "as": "each", "in": {"seq": "$$each.seq", "any": may_have_any}}}


def _types(search: Search) -> list[str]:
    return sorted(kind.value for kind in search.types)
