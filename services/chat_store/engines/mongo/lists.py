"""Lists of conversations: headers only, in the order of an index."""

from typing import Any

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.headers import MongoHeaders
from services.chat_store.model import Conversation
from services.chat_store.selection import Period, Reach, Selection


async def select_conversations(
    headers: MongoHeaders, reach: Reach, selection: Selection
) -> tuple[list[Conversation], bool]:
    """See ChatStore.select."""
    found = headers.conversations.find(_selected(headers, reach, selection))
    listed = found.sort([("last_activity_time", -1), ("_id", -1)]).limit(selection.limit + 1)
    page = await listed.to_list(None)
    return [documents.conversation_of(each) for each in page[: selection.limit]], len(page) > selection.limit


def _selected(headers: MongoHeaders, reach: Reach, selection: Selection) -> Document:
    conditions: list[Document] = [
        {"tenant_id": reach.tenant_id, "status": {"$in": sorted(status.value for status in selection.statuses)}},
        {"$expr": {"$or": [{"$not": ["$description.ttl_seconds"]}, {"$gt": [_EXPIRES, headers.now()]}]}},
    ]
    if reach.user_id is not None:
        conditions.append({"user_id": reach.user_id})
    of = {"assistant_id": selection.assistant_id, "team_id": selection.team_id}
    conditions += [{name: wanted} for name, wanted in of.items() if wanted]
    conditions += [*_within("create_time", selection.created), *_within("last_activity_time", selection.active)]
    if selection.after is not None:
        at, key = selection.after.time, documents.conversation_key(reach.tenant_id, selection.after.id)
        conditions.append({"last_activity_time": {"$lte": at}})
        conditions.append({"$or": [{"last_activity_time": {"$lt": at}}, {"_id": {"$lt": key}}]})
    return {"$and": conditions}


_EXPIRES: Any = {
    "$dateAdd": {"startDate": "$last_activity_time", "unit": "second", "amount": "$description.ttl_seconds"}
}


def _within(name: str, period: Period) -> list[Document]:
    bounds = {"$gte": period.start, "$lt": period.end}
    return [{name: {operator: bound}} for operator, bound in bounds.items() if bound is not None]
