"""Rows of the Postgres engine: nouns as JSON, and the columns beside it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from services.chat_store.acts import Act
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, Draft, Message, Tokens, Totals
from services.chat_store.policy import Policy
from services.chat_store.selection import Version
from services.chat_store.words import Word, terms_of
from shared.errors import RequestIdReused

Row = Any  # asyncpg.Record, whose columns are known to the statement alone
State = Conversation | Message | Entry
Noun = TypeVar("Noun")

CREATED, APPENDED, CHANGED, PURGED = 1, 2, 3, 4

_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Conversation, Message, Draft, Entry, Policy)
}
_OF_CONVERSATION, _OF_MESSAGE = "conversation", "message"
_TERM_BYTES = 8


def dump(noun: Any) -> str:
    """The noun as JSON, without what it has by default."""
    return _ADAPTERS[type(noun)].dump_json(noun, exclude_defaults=True).decode()


def load(kind: type[Noun], text: str) -> Noun:
    """The noun of that kind in the JSON."""
    noun: Noun = _ADAPTERS[kind].validate_json(text)
    return noun


def plain(text: str) -> str:
    """The text without U+0000, which no column holds; different texts stay different."""
    return text if "\0" not in text and "\\" not in text else text.replace("\\", "\\\\").replace("\0", "\\0")


def spoken(text: str) -> str:
    """The text that `plain` was made of."""
    return text if "\\" not in text else "\\".join(part.replace("\\0", "\0") for part in text.split("\\\\"))


def milliseconds(time: datetime) -> datetime:
    """The time as stores keep it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def bound(time: datetime | None) -> datetime | None:
    """A bound of a period as stores compare it: to the millisecond, as what they keep."""
    return None if time is None else milliseconds(time)


def milliseconds_of(time: datetime) -> int:
    """Since 1970."""
    return int(time.timestamp()) * 1000 + time.microsecond // 1000


def conversation_of(row: Row) -> Conversation:
    """The conversation of a row of `conversations`."""
    *tokens, cost, responses, response_ms = row["sums"]
    return replace(
        load(Conversation, row["facts"]),
        create_time=row["create_time"],
        last_activity_time=row["last_activity_time"],
        totals=Totals(row["last_seq"], Tokens(*tokens), cost, responses, response_ms),
        preview=spoken(row["preview"]),
        revision=row["revision"],
        first_seq=row["first_seq"],
    )


def version_of(row: Row) -> Version:
    """What the conversation of a row of `conversations` is at."""
    return Version(row["create_time"], row["first_seq"], row["last_seq"], row["revision"])


def facts_of(conversation: Conversation) -> str:
    """What acts change of a conversation, as JSON; what appends change is in columns."""
    return dump(replace(conversation, totals=Totals(), preview="", first_seq=1))


def sums_of(totals: Totals) -> list[int]:
    """The sums of a conversation in the order of their column."""
    tokens = totals.tokens
    components = [tokens.input, tokens.cached_input, tokens.output, tokens.reasoning]
    return [*components, totals.cost_micros, totals.responses, totals.response_ms]


def columns_of(conversation: Conversation) -> dict[str, Any]:
    """What an act may have changed in the row of a conversation."""
    return {
        "status": conversation.status.value,
        "closed": conversation.closed,
        "facts": facts_of(conversation),
        "ttl_seconds": conversation.description.ttl_seconds,
        "expire_time": conversation.expire_time,
        "purge_time": conversation.purge_time,
        "revision": conversation.revision,
        "first_seq": conversation.first_seq,
    }


def said_of(row: Row) -> Message:
    """The message of a row of `messages` as it was said."""
    return Message(row["seq"], row["create_time"], load(Draft, row["said"]))


def message_of(row: Row) -> Message:
    """The message of a row of `messages` as it is now."""
    return said_of(row) if row["changed"] is None else load(Message, row["changed"])


def words_said(row: Row) -> str:
    """What search looks through of the message of such a row, without making it: a search ranks a thousand."""
    now = from_json(row["changed"] or row["said"])
    draft = now["draft"] if row["changed"] else now
    return "\n".join([draft.get("text", ""), *(part["text"] for part in draft.get("parts", ()) if "text" in part)])


def state_of(row: Row) -> State:
    """The state that a change left."""
    kinds: dict[str, type[State]] = {_OF_CONVERSATION: Conversation, _OF_MESSAGE: Message}
    return load(kinds.get(row["target"].partition(":")[0], Entry), row["state"])


def target_of(state: State) -> str:
    """What a change changed: kind, and id within the conversation."""
    if isinstance(state, Conversation):
        return _OF_CONVERSATION
    if isinstance(state, Message):
        return f"{_OF_MESSAGE}:{plain(state.message_id)}"
    return entry_target(state.kind, state.entry_id)


def message_target(message_id: str) -> str:
    """The target of what is done to a message."""
    return f"{_OF_MESSAGE}:{plain(message_id)}"


def entry_target(kind: EntryKind, entry_id: str) -> str:
    """The target of what is done to an entry."""
    return f"{kind.value}:{plain(entry_id)}"


def check_repeated(row: Row, act: Act, target: str) -> None:
    """RequestIdReused unless the row is what the same act left."""
    if (row["target"], row["fingerprint"]) != (target, act.fingerprint):
        raise RequestIdReused


def terms_in(tenant_id: str, words: str) -> str:
    """The hashed terms of what search looks through, as an array in SQL."""
    return _array(hashed(tenant_id, terms_of(words)))


def words_in(tenant_id: str, words: Sequence[Word]) -> list[str]:
    """The hashed terms of each word, each as an array in SQL."""
    return [_array(hashed(tenant_id, sorted(word.terms))) for word in words]


def hashed(tenant_id: str, terms: Iterable[str]) -> list[int]:
    """64 bits for each term, another for each tenant. A false hit is one in 10^19."""
    key = _key(tenant_id)
    return [
        int.from_bytes(hashlib.blake2b(term.encode(), key=key, digest_size=_TERM_BYTES).digest(), signed=True)
        for term in terms
    ]


@lru_cache(maxsize=1024)
def _key(tenant_id: str) -> bytes:
    return hashlib.blake2b(tenant_id.encode(), digest_size=16).digest()


def _array(numbers: Iterable[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"
