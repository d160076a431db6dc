"""Transactions whose process is gone: MongoDB would let them keep what they wrote from everybody for a minute."""

from contextlib import suppress
from typing import Any

from pymongo.errors import OperationFailure

from shared.mongo import MongoDatabase, mongo_errors

# Of each connection: the sessions that rest in a transaction begun there, and whether it is still open. A killed
# process loses its connections at once, so those without one are its own. $currentOp tells of nobody else's.
_BY_CONNECTION: list[dict[str, Any]] = [
    {"$currentOp": {"idleConnections": True, "idleSessions": True}},
    {"$match": {"connectionId": {"$exists": True}}},
    {
        "$group": {
            "_id": "$connectionId",
            "open": {"$max": {"$ne": ["$type", "idleSession"]}},
            "sessions": {"$push": {"$cond": [{"$eq": ["$type", "idleSession"]}, {"id": "$lsid.id"}, "$$REMOVE"]}},
        }
    },
    {"$match": {"open": False}},
]


async def end_abandoned(database: MongoDatabase) -> int:
    """Ends transactions that nobody can commit any more, and returns how many there were.

    One that is mistaken for such, because it just changed its connection, is tried again by whoever began it. A server
    that does not let us look ends them by itself, in its own time.
    """
    with mongo_errors(), suppress(OperationFailure):
        # As a plain command, which has no read concern: $currentOp takes none.
        answer = await database.client.admin.command({"aggregate": 1, "pipeline": _BY_CONNECTION, "cursor": {}})
        sessions = [session for each in answer["cursor"]["firstBatch"] for session in each["sessions"]]
        if sessions:
            await database.client.admin.command({"killSessions": sessions})
        return len(sessions)
    return 0
