"""What is appended in one step, and what of it is too large to stay in the messages."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.chat_store.fingerprints import digest_of
from services.chat_store.limits import (
    BEGINNING_CHARACTERS,
    INLINE_BYTES,
    MAX_AMOUNT,
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    MAX_BATCH_TEXT_BYTES,
    MAX_PARTS,
    MAX_TEXT_BYTES,
    broken,
    check_metadata,
)
from services.chat_store.model import Body, Draft, Message, Part, Reference
from services.chat_store.words import MAX_INDEXED_CHARACTERS

Bodies = Mapping[str, bytes]

# Of a text that is kept apart: as many characters as are looked through take at most so many bytes.
SEARCHED_BYTES = 4 * MAX_INDEXED_CHARACTERS


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages to be appended in one step, each with its id. Make one with `Batch.of`.

    `bodies` are the texts that are kept apart, UTF-8 by their SHA-256.
    """

    drafts: tuple[Draft, ...]
    request_id: str
    fingerprint: str
    bodies: Bodies = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, drafts: Sequence[Draft], request_id: str, new_id: Callable[[], str]) -> "Batch":
        """Checks the drafts, names the nameless and takes out what is too large; InvalidArgument for a broken rule."""
        _check_whole(drafts)
        kept, bodies = [], dict[str, bytes]()
        for draft in drafts:
            inline, apart = inline_of(draft)
            kept.append(inline)
            bodies |= apart
        _check_inline(kept)
        fingerprint = digest_of([_facts(draft) for draft in kept])
        named = tuple(draft if draft.message_id else replace(draft, message_id=new_id()) for draft in kept)
        return cls(named, request_id, fingerprint, bodies)

    def placed(self, first_seq: int, at: datetime) -> list[Message]:
        """The messages at their places, from `first_seq` on."""
        return [Message(first_seq + offset, at, draft) for offset, draft in enumerate(self.drafts)]

    @property
    def preview(self) -> str:
        """The beginning of the last message."""
        return self.drafts[-1].preview


def inline_of(draft: Draft) -> tuple[Draft, Bodies]:
    """The draft as a page shows it, and its text if that is to be kept apart."""
    if len(draft.text) * 4 <= INLINE_BYTES:
        return draft, {}
    whole = draft.text.encode()
    if len(whole) <= INLINE_BYTES:
        return draft, {}
    digest = hashlib.sha256(whole).hexdigest()
    return replace(draft, text=draft.text[:BEGINNING_CHARACTERS], body=Body(len(whole), digest)), {digest: whole}


def text_searched(draft: Draft, bodies: Bodies) -> str:
    """What search looks through: of a text that is kept apart, more than the beginning that stays in the message.

    `bodies` hold its first SEARCHED_BYTES at least. The parts come first, or so long a text would leave them no room.
    """
    if draft.body is None or draft.body.sha256 not in bodies:
        return draft.words
    beginning = bodies[draft.body.sha256][:SEARCHED_BYTES].decode(errors="ignore")
    return "\n".join([*(part.text for part in draft.parts if part.text), beginning])


def check_draft(draft: Draft, path: str) -> None:
    """InvalidArgument when a message breaks a rule by itself; `path` is where the caller finds it."""
    if len(draft.text.encode()) > MAX_TEXT_BYTES:
        raise broken(f"{path}.text", f"must be at most {MAX_TEXT_BYTES} bytes", "string.max_bytes")
    if len(draft.parts) > MAX_PARTS:
        raise broken(f"{path}.parts", f"must be at most {MAX_PARTS}", "repeated.max_items")
    check_metadata(draft.metadata, f"{path}.metadata")
    for index, part in enumerate(draft.parts):
        check_metadata(part.data, f"{path}.parts[{index}].data")
    _check_amounts(draft, path)


def _check_whole(drafts: Sequence[Draft]) -> None:
    if not 1 <= len(drafts) <= MAX_BATCH_MESSAGES:
        raise broken("messages", f"must be 1 to {MAX_BATCH_MESSAGES}", "repeated.items")
    named = [draft.message_id for draft in drafts if draft.message_id]
    if len(set(named)) < len(named):
        raise broken("messages", "must not repeat a message_id", "messages.unique")
    for index, draft in enumerate(drafts):
        check_draft(draft, f"messages[{index}]")
    if sum(len(draft.text.encode()) for draft in drafts) > MAX_BATCH_TEXT_BYTES:
        raise broken("messages", f"must hold at most {MAX_BATCH_TEXT_BYTES} bytes of text", "messages.max_bytes")


def _check_inline(drafts: Sequence[Draft]) -> None:
    if sum(draft.size_bytes for draft in drafts) > MAX_BATCH_BYTES:
        description = f"must be at most {MAX_BATCH_BYTES} bytes together, texts that are kept apart not counted"
        raise broken("messages", description, "messages.max_bytes")


def _check_amounts(draft: Draft, path: str) -> None:
    tokens = draft.tokens
    for amount in (tokens.input, tokens.cached_input, tokens.output, tokens.reasoning):
        if not 0 <= amount <= MAX_AMOUNT:
            raise broken(f"{path}.usage", f"must be from 0 to {MAX_AMOUNT}", "int64.range")
    for name in ("cost_micros", "latency_ms", "time_to_first_token_ms"):
        if not 0 <= getattr(draft, name) <= MAX_AMOUNT:
            raise broken(f"{path}.{name}", f"must be from 0 to {MAX_AMOUNT}", "int64.range")


def _facts(draft: Draft) -> list[object]:
    """Everything the author said, in an order that never changes; what is not said changes no digest."""
    tokens = draft.tokens
    facts: list[object] = [
        draft.type.value,
        draft.text,
        draft.message_id,
        draft.user_id,
        draft.assistant_id,
        draft.team_id,
        draft.status.value,
        draft.rag,
        [[getattr(each, name) for name in Reference.__slots__] for each in draft.references],
        [tokens.input, tokens.cached_input, tokens.output, tokens.reasoning],
        draft.usage_source.value,
        draft.cost_micros,
        draft.model,
        draft.latency_ms,
        draft.time_to_first_token_ms,
        draft.finish_reason,
        draft.error_reason,
        draft.metadata,
    ]
    if draft.parts or draft.reply_to or draft.body:
        parts = [[part.kind.value, *(getattr(part, name) for name in Part.__slots__[1:])] for part in draft.parts]
        facts += [parts, draft.reply_to, draft.body.sha256 if draft.body else ""]
    return facts
