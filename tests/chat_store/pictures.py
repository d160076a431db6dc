"""Conversations full of everything, and all that can be seen of them."""

from dataclasses import replace
from typing import Any

from services.chat_store.acts import (
    AddEntry,
    Describe,
    EditMessage,
    LinkMessageAnalysis,
    RemoveEntry,
    SetFeedback,
)
from services.chat_store.batch import inline_of
from services.chat_store.entries import EntryKind
from services.chat_store.limits import INLINE_BYTES
from services.chat_store.model import (
    ConversationStatus,
    Draft,
    Feedback,
    MessageType,
    NewConversation,
    Part,
    PartKind,
    Reference,
)
from services.chat_store.selection import EntrySelection, Reach
from services.chat_store.snapshot import KeptConversation, Piece
from services.chat_store.store import ChatStore
from tests.chat_store.workshop import (
    batch_of,
    everything,
    pair,
    said,
    started,
    whole,
)

TASK, EVENT = EntryKind.TASK, EntryKind.EVENT
EVERY_STATUS = frozenset(ConversationStatus)
LARGE = "grande " * (INLINE_BYTES // 6)


async def fill(store: ChatStore, reach: Reach, name: str) -> None:
    """A conversation with something of everything: four appends with six messages, the first of them edited."""
    await store.create(reach, NewConversation(name, reach.user_id or "", assistant_id="a1", request_id="r0"))
    everything_said = replace(
        said("imposto devido", MessageType.ASSISTANT, message_id="m2"),
        references=(Reference(1, "d", 1, "t", "c", 1, 2, 3, "q", 0.5),),
        parts=(Part(PartKind.DATA, data='{"$a":1}'),),
        reply_to="m1",
        metadata='{"a.b":1}',
    )
    await store.append(reach, name, batch_of(said("imposto", message_id="m1"), everything_said, request_id="r1"))
    await store.append(reach, name, batch_of(said(LARGE, message_id="m3")))
    await store.append(reach, name, pair("imposto\0"))
    await store.append(reach, name, batch_of(said("fim", message_id="m6")))
    await store.act(reach, name, Describe(title=f"sobre {name}", context='{"$set":1}', request_id="r2", actor="bia"))
    await store.revise(reach, name, "m1", EditMessage(text="imposto editado", request_id="r3"))
    draft, bodies = inline_of(said(f"editado {LARGE}"))
    await store.revise(reach, name, "m3", EditMessage(text=draft.text, body=draft.body, bodies=bodies))
    await store.revise(reach, name, "m6", SetFeedback(feedback=Feedback(3, comment="x", user_id="ana")))
    await store.revise(reach, name, "m6", LinkMessageAnalysis(analysis_id="x"))
    for entry_id in ("e1", "e2"):
        await store.entries.act(reach, name, TASK, entry_id, AddEntry(label="pending", text="t", request_id=entry_id))
    await store.entries.act(reach, name, EVENT, "e1", AddEntry(label="handoff", by="bot", content='{"a":1}'))
    await store.entries.act(reach, name, TASK, "e2", RemoveEntry())


async def picture(store: ChatStore, reach: Reach, name: str) -> list[object]:
    """All that a reader can see of a conversation."""
    messages = await everything(store, reach, name)
    return [
        await store.get(reach, name),
        await store.version(reach, name),
        messages,
        [await store.revisions(reach, name, each.message_id, -1, 50) for each in messages],
        [await whole(store.text(reach, name, each.message_id)) for each in messages],
        await store.entries.select(reach, name, EntrySelection(TASK)),
        await store.entries.select(reach, name, EntrySelection(EVENT)),
    ]


async def dumped(store: ChatStore, tenant_id: str) -> list[Piece]:
    """What the dump says of the tenant; the store may be full of others."""
    return [piece async for piece in store.upkeep.dump() if _tenant(piece) == tenant_id]


def _tenant(piece: Piece) -> str:
    return piece.conversation.tenant_id if isinstance(piece, KeptConversation) else piece.tenant_id


def named(piece: Piece) -> str:
    if isinstance(piece, KeptConversation):
        return piece.conversation.conversation_id
    return str(getattr(piece, "conversation_id", ""))


async def with_a_guest(store: ChatStore, owner: Reach, guest: str) -> Any:
    """A conversation in which somebody else than its owner had a hand in everything."""
    name = await started(store, owner)

    def by(author: str, text: str, message_id: str) -> Draft:
        return replace(said(text, message_id=message_id), user_id=author, metadata='{"a":1}')

    answer = said("answer", MessageType.ASSISTANT, message_id="m2")
    await store.append(owner, name, batch_of(by(guest, "segredo", "m1"), answer, by("bia", "of bia", "m3")))
    await store.append(owner, name, batch_of(by(guest, f"segredo {LARGE}", "m4")))
    opinion = Feedback(1, comment="opinião", user_id=guest)
    await store.revise(owner, name, "m1", EditMessage(text="segredo editado", actor=guest, request_id="r1"))
    await store.revise(owner, name, "m2", SetFeedback(feedback=opinion, actor=guest))
    await store.revise(owner, name, "m2", LinkMessageAnalysis(analysis_id="x"))
    await store.act(owner, name, Describe(title="by a guest", actor=guest))
    await store.revise(owner, name, "m4", EditMessage(text="segredo corrigido", actor=guest))
    await store.act(owner, name, Describe(title="as corrected"))
    await store.entries.act(owner, name, EVENT, "e1", AddEntry(label="x", by=guest, content='{"a":1}', actor=guest))
    return name
