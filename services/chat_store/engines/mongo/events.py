"""What the documents of the Mongo engine tell the feed: the same from history as from the log.

An id may be used again, so the id of an event holds when its conversation was created.
"""

from collections.abc import Mapping
from typing import Any

from services.chat_store.engines.mongo import documents
from services.chat_store.engines.mongo.changes import state_of
from services.chat_store.happenings import Appended, Changed, Event, Purged
from services.chat_store.model import Conversation

# The collections whose inserts are told.
TOLD = (documents.CONVERSATIONS, documents.APPENDS, documents.CHANGES, documents.PURGES)


def event_of(collection: str, document: Mapping[str, Any], resume_token: str) -> Event:
    """What the insertion of the document tells."""
    tenant_id, conversation_id = document["tenant_id"], document["conversation_id"]
    since = document["create_time"] if collection == documents.CONVERSATIONS else document["since"]
    begin = f"{documents.conversation_key(tenant_id, conversation_id)}@{documents.milliseconds_of(since)}"
    end, what = _told(collection, document)
    time = document["time"] if "time" in document else document["create_time"]
    return Event(resume_token, f"{begin}{end}", tenant_id, conversation_id, time, what)


def _told(collection: str, document: Mapping[str, Any]) -> tuple[str, Conversation | Appended | Changed | Purged]:
    if collection == documents.CONVERSATIONS:
        return "", documents.conversation_of(document).as_created()
    if collection == documents.PURGES:
        return "!", Purged()
    whose = {name: document[name] for name in ("user_id", "assistant_id", "team_id", "channel")}
    if collection == documents.APPENDS:
        return f":{document['first_seq']}", Appended(tuple(documents.said_in(document)), **whose)
    return f"~{document['revision']}", Changed(state_of(document), document["actor"], **whose)
