"""The indexes of the Mongo engine, each with what it is for. The `_id` of every collection serves all its ranges."""

from collections.abc import Mapping

from pymongo import ASCENDING, DESCENDING, IndexModel

from services.chat_store.engines.mongo import documents

_CONVERSATION = [("tenant_id", ASCENDING), ("conversation_id", ASCENDING)]
_BY_ACTIVITY = [("status", ASCENDING), ("last_activity_time", DESCENDING), ("_id", DESCENDING)]

INDEXES: Mapping[str, list[IndexModel]] = {
    documents.CONVERSATIONS: [
        # The list of a user.
        IndexModel([("tenant_id", ASCENDING), ("user_id", ASCENDING), *_BY_ACTIVITY], name="of_user"),
        # The list of a tenant, and which of its conversations are idle.
        IndexModel([("tenant_id", ASCENDING), *_BY_ACTIVITY], name="of_tenant"),
        # The lists of an assistant and of a team.
        IndexModel(
            [("tenant_id", ASCENDING), ("assistant_id", ASCENDING), *_BY_ACTIVITY],
            name="of_assistant",
            partialFilterExpression={"assistant_id": {"$gt": ""}},
        ),
        IndexModel(
            [("tenant_id", ASCENDING), ("team_id", ASCENDING), *_BY_ACTIVITY],
            name="of_team",
            partialFilterExpression={"team_id": {"$gt": ""}},
        ),
        # What is due to leave, of all tenants.
        IndexModel([("leave_time", ASCENDING)], name="leaving", sparse=True),
    ],
    documents.APPENDS: [
        # A retry stores once.
        IndexModel(
            [*_CONVERSATION, ("request_id", ASCENDING)],
            name="request",
            unique=True,
            partialFilterExpression={"request_id": {"$exists": True}},
        ),
        # A message_id is unique in its conversation, and finds the message.
        IndexModel([*_CONVERSATION, ("messages.message_id", ASCENDING)], name="message", unique=True),
        # Search: a word's messages, the newest first; most of other users are told apart without looking at them.
        IndexModel(
            [
                ("tenant_id", ASCENDING),
                ("words.terms", ASCENDING),
                ("create_time", DESCENDING),
                ("user_slot", ASCENDING),
            ],
            name="words",
        ),
        # Search for a word that is common in the tenant, by one user; and where a user's messages are.
        IndexModel([("tenant_id", ASCENDING), ("user_id", ASCENDING), ("create_time", DESCENDING)], name="of_user"),
        # What somebody said in the conversations of others, to be forgotten.
        IndexModel(
            [("tenant_id", ASCENDING), ("guests", ASCENDING)],
            name="guests",
            partialFilterExpression={"guests": {"$exists": True}},
        ),
    ],
    documents.CHANGES: [
        # A retried act acts once.
        IndexModel(
            [*_CONVERSATION, ("request_id", ASCENDING)],
            name="request",
            unique=True,
            partialFilterExpression={"request_id": {"$exists": True}},
        ),
        # The revisions of a message.
        IndexModel(
            [*_CONVERSATION, ("message_id", ASCENDING), ("message_revision", ASCENDING)],
            name="revisions",
            partialFilterExpression={"message_id": {"$exists": True}},
        ),
        # What somebody said and did in the conversations of others, to be forgotten.
        IndexModel(
            [("tenant_id", ASCENDING), ("guests", ASCENDING)],
            name="guests",
            partialFilterExpression={"guests": {"$exists": True}},
        ),
    ],
    documents.ENTRIES: [
        # The tasks or events of a conversation, the newest first.
        IndexModel(
            [*_CONVERSATION, ("kind", ASCENDING), ("create_time", DESCENDING), ("entry_id", DESCENDING)],
            name="of_kind",
        ),
        # What somebody caused in the conversations of others, to be forgotten.
        IndexModel(
            [("tenant_id", ASCENDING), ("actor", ASCENDING)],
            name="actor",
            partialFilterExpression={"actor": {"$gt": ""}},
        ),
    ],
    documents.PURGES: [
        # Purges that a crash cut short.
        IndexModel([("unfinished", ASCENDING)], name="unfinished", sparse=True),
    ],
}
