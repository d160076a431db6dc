"""All that a memory keeps, given out in pieces and taken in again."""

from collections.abc import Iterator
from functools import singledispatch

from services.chat_store.audit_chain import AuditLink
from services.chat_store.engines.memory.kept import Append, Memory, Talk
from services.chat_store.snapshot import (
    KeptAppend,
    KeptBody,
    KeptChange,
    KeptConversation,
    KeptEntry,
    KeptPolicy,
    KeptPurge,
    Piece,
    belongs,
)


def dump(memory: Memory) -> Iterator[Piece]:
    """See Upkeep.dump."""
    yield from [KeptPolicy(tenant_id, policy) for tenant_id, policy in memory.policies.items()]
    yield from [chain[number] for chain in memory.links.values() for number in sorted(chain)]
    yield from [purge for purges in memory.purges.values() for purge in purges.values()]
    for talk in list(memory.everything()):
        yield from _pieces(talk) if memory.talk(*talk.key) is talk else []


def load(memory: Memory, piece: Piece) -> None:
    """Takes one piece in, unless it is there already or of a conversation that is another one by now."""
    _take(piece, memory)


def _pieces(talk: Talk) -> list[Piece]:
    return [
        KeptConversation(talk.conversation, talk.request_id, talk.fingerprint),
        *(KeptBody(*talk.key, sha256, content) for sha256, content in talk.bodies.items()),
        *(_append(talk, append) for append in talk.appends.values()),
        *(change for _, change in sorted(talk.changes.items())),
        *(KeptEntry(*talk.key, entry) for entry in talk.entries.values()),
    ]


def _append(talk: Talk, append: Append) -> KeptAppend:
    now = [talk.messages[message.seq] for message in append.said]
    changed = tuple(after for before, after in zip(append.said, now, strict=True) if after != before)
    since = talk.conversation.create_time
    return KeptAppend(*talk.key, since, append.request_id, append.fingerprint, append.said, changed)


@singledispatch
def _take(piece: object, _memory: Memory) -> None:
    raise TypeError(f"{type(piece).__name__} is no piece of a dump")


@_take.register
def _(piece: KeptPolicy, memory: Memory) -> None:
    memory.policies.setdefault(piece.tenant_id, piece.policy)


@_take.register
def _(piece: AuditLink, memory: Memory) -> None:
    memory.links.setdefault(piece.tenant_id, {}).setdefault(piece.number, piece)


@_take.register
def _(piece: KeptPurge, memory: Memory) -> None:
    memory.keep_purge(piece)


@_take.register
def _(piece: KeptConversation, memory: Memory) -> None:
    conversation = piece.conversation
    if memory.talk(conversation.tenant_id, conversation.conversation_id) is None:
        memory.create(Talk(conversation, piece.request_id, piece.fingerprint))


@_take.register
def _(piece: KeptBody, memory: Memory) -> None:
    talk = memory.talk(piece.tenant_id, piece.conversation_id)
    if talk is not None:
        talk.bodies.setdefault(piece.sha256, piece.content)


@_take.register
def _(piece: KeptEntry, memory: Memory) -> None:
    talk = memory.talk(piece.tenant_id, piece.conversation_id)
    if talk is not None:
        talk.entries.setdefault((piece.entry.kind, piece.entry.entry_id), piece.entry)


@_take.register
def _(piece: KeptAppend, memory: Memory) -> None:
    talk = _talk(piece, memory)
    if talk is not None and piece.said[0].seq not in talk.appends:
        memory.append(talk, Append(piece.request_id, piece.fingerprint, piece.said))
        for message in piece.changed:
            memory.show(talk, message)


@_take.register
def _(piece: KeptChange, memory: Memory) -> None:
    talk = _talk(piece, memory)
    if talk is not None and piece.revision not in talk.changes:
        memory.change(talk, piece)


def _talk(piece: KeptAppend | KeptChange, memory: Memory) -> Talk | None:
    """The conversation that the piece is of, if it has room for it."""
    talk = memory.talk(piece.tenant_id, piece.conversation_id)
    return talk if talk is not None and belongs(piece, talk.version) else None
