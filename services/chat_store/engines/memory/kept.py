"""What the memory engine keeps: conversations with all that is of them, and the order in which things happened.

Everything is changed within one step of one event loop, so nothing is ever seen half done and nothing needs a lock.
"""

import asyncio
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from services.chat_store.acts import Act
from services.chat_store.audit_chain import AuditLink
from services.chat_store.batch import Batch, text_searched
from services.chat_store.engines.memory.words import WordIndex
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.model import Conversation, Message
from services.chat_store.policy import Policy
from services.chat_store.selection import Place, Reach, Version
from services.chat_store.snapshot import KeptChange, KeptPurge
from shared.clock import Clock
from shared.errors import NotFound, RequestIdReused
from shared.identifiers import new_id

SMALLEST_STEP = timedelta(milliseconds=1)

State: TypeAlias = Conversation | Message | Entry


@dataclass(slots=True)
class Append:
    """What was said in one step, as it was said."""

    request_id: str
    fingerprint: str
    said: tuple[Message, ...]

    @property
    def first_seq(self) -> int:
        """The place of its first message."""
        return self.said[0].seq


@dataclass(slots=True, eq=False)
class Talk:
    """A conversation with all that is of it.

    `messages` are those kept as they are now, by `seq`; `seqs` their places by id, `appends` what was said by first
    `seq`, `starts` the first `seq` of each message's append. `told` are the numbers of what the feed tells of it.
    """

    conversation: Conversation
    request_id: str
    fingerprint: str
    messages: dict[int, Message] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)
    appends: dict[int, Append] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    appended: dict[str, Append] = field(default_factory=dict)
    changes: dict[int, KeptChange] = field(default_factory=dict)
    acted: dict[str, KeptChange] = field(default_factory=dict)
    entries: dict[tuple[EntryKind, str], Entry] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    told: dict[tuple[str, int], int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Tenant and id."""
        return self.conversation.tenant_id, self.conversation.conversation_id

    @property
    def place(self) -> Place:
        """Where the conversation stands in lists."""
        return Place(self.conversation.last_activity_time, self.conversation.conversation_id)

    @property
    def version(self) -> Version:
        """What it is at."""
        kept = self.conversation
        return Version(kept.create_time, kept.first_seq, kept.totals.messages, kept.revision)

    def append_of(self, seq: int) -> Append:
        """The append that the message at `seq` came with."""
        return self.appends[self.starts[seq]]

    def said(self, seq: int) -> Message:
        """The message as it was said."""
        append = self.append_of(seq)
        return append.said[seq - append.first_seq]

    def known(self, act: Act, kind: type[State], target: tuple[str, ...] = ()) -> State | None:
        """What the same act left when it was done before; RequestIdReused if it was another one, or to another."""
        change = self.acted.get(act.request_id) if act.request_id else None
        if change is None:
            return None
        same = isinstance(change.state, kind) and target_of(change.state) == target
        if not same or change.fingerprint != act.fingerprint:
            raise RequestIdReused
        return change.state


@dataclass(frozen=True, slots=True)
class Told:
    """What the feed tells of a conversation that is kept: its creation, or the append or change of that number."""

    talk: Talk
    kind: str
    number: int


CREATED, APPENDED, CHANGED = "created", "appended", "changed"
Happening: TypeAlias = Told | KeptPurge


class Memory:
    """All that is kept, for any number of stores in one process."""

    def __init__(self) -> None:
        self.run = new_id()
        self.talks: dict[str, dict[str, Talk]] = defaultdict(dict)
        self.words = WordIndex()
        self.policies: dict[str, Policy] = {}
        self.links: dict[str, dict[int, AuditLink]] = {}
        self.purges: dict[tuple[str, str], dict[datetime, KeptPurge]] = defaultdict(dict)
        self.happenings: dict[int, Happening] = {}
        self.last_number = 0
        self.feeds: set[object] = set()
        self._listed: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
        self._waiting: set[asyncio.Future[None]] = set()

    def talk(self, tenant_id: str, conversation_id: str) -> Talk | None:
        """The conversation of that id, whatever its state."""
        return self.talks.get(tenant_id, {}).get(conversation_id)

    def found(self, reach: Reach, conversation_id: str, at: datetime) -> Talk:
        """The conversation that a reader finds at that moment; NotFound."""
        talk = self.talk(reach.tenant_id, conversation_id)
        if talk is None or not reach.shows(talk.conversation, at):
            raise NotFound("conversation", conversation_id)
        return talk

    def message_of(self, talk: Talk, message_id: str) -> Message:
        """The message of that id, as it is now; NotFound."""
        seq = talk.seqs.get(message_id)
        if seq is None:
            raise NotFound("message", message_id)
        return self.message(talk, seq)

    def message(self, talk: Talk, seq: int) -> Message:
        """A message that is kept, as it is now."""
        return talk.messages[seq]

    def listed(self, tenant_id: str, after: Place | None) -> Iterator[Talk]:
        """The tenant's conversations by falling last activity."""
        places = self._listed.get(tenant_id, [])
        end = len(places) if after is None else bisect_left(places, (after.time, after.id))
        for _, conversation_id in reversed(places[:end]):
            yield self.talks[tenant_id][conversation_id]

    def everything(self) -> Iterator[Talk]:
        """All conversations, by tenant and id."""
        for tenant_id in sorted(self.talks):
            for conversation_id in sorted(self.talks[tenant_id]):
                yield self.talks[tenant_id][conversation_id]

    def create(self, talk: Talk) -> None:
        """Takes in a conversation whose id is free."""
        tenant_id, conversation_id = talk.key
        self.talks[tenant_id][conversation_id] = talk
        insort(self._listed[tenant_id], (talk.place.time, talk.place.id))
        self._tell(talk, CREATED)

    def first_moment(self, tenant_id: str, conversation_id: str, now: datetime) -> datetime:
        """When a conversation can have been created: never at the moment at which an earlier one of its id was."""
        purges = self.purges.get((tenant_id, conversation_id), {})
        return max([now, *(since + SMALLEST_STEP for since in purges)])

    def append(self, talk: Talk, append: Append) -> None:
        """Takes in what was said; the conversation is brought up to date by the caller."""
        talk.appends[append.first_seq] = append
        if append.request_id:
            talk.appended[append.request_id] = append
        for message in append.said:
            talk.messages[message.seq] = message
            talk.seqs[message.message_id] = message.seq
            talk.starts[message.seq] = append.first_seq
            self.index(talk, message)
        self._tell(talk, APPENDED, append.first_seq)

    def change(self, talk: Talk, change: KeptChange) -> None:
        """Takes in what an act left, as the latest revision of the conversation."""
        talk.changes[change.revision] = change
        if change.request_id:
            talk.acted[change.request_id] = change
        self._tell(talk, CHANGED, change.revision)

    def update(self, talk: Talk, conversation: Conversation) -> None:
        """The conversation is from now on as it is said here."""
        places = self._listed[conversation.tenant_id]
        del places[bisect_left(places, (talk.place.time, talk.place.id))]
        talk.conversation = conversation
        insort(places, (talk.place.time, talk.place.id))

    def show(self, talk: Talk, message: Message) -> None:
        """The message is from now on as it is said here, and found so."""
        talk.messages[message.seq] = message
        self.index(talk, message)

    def index(self, talk: Talk, message: Message) -> None:
        """The message is found by its words of now, those of a text that is kept apart included."""
        self.words.put(talk.key, message, text_searched(message.draft, talk.bodies))

    def purge(self, talk: Talk, purge: KeptPurge) -> None:
        """Forgets the conversation, and keeps that it did."""
        tenant_id, conversation_id = talk.key
        for seq in list(talk.messages):
            self.words.drop(talk.key, talk.messages[seq])
        for number in talk.told.values():
            del self.happenings[number]
        places = self._listed[tenant_id]
        del places[bisect_left(places, (talk.place.time, talk.place.id))]
        del self.talks[tenant_id][conversation_id]
        self.keep_purge(purge)

    def keep_purge(self, purge: KeptPurge) -> None:
        """Tells the purge, once."""
        known = self.purges[purge.tenant_id, purge.conversation_id]
        if purge.since not in known:
            known[purge.since] = purge
            self._happened(purge)

    def forget_append(self, talk: Talk, append: Append) -> None:
        """Lets go of an append, of its messages and of what was done to them."""
        own = {message.message_id for message in append.said}
        for message in append.said:
            self.words.drop(talk.key, talk.messages.pop(message.seq))
            del talk.seqs[message.message_id], talk.starts[message.seq]
        for revision, change in list(talk.changes.items()):
            if isinstance(change.state, Message) and change.state.message_id in own:
                del talk.changes[revision]
                talk.acted.pop(change.request_id, None)
                del self.happenings[talk.told.pop((CHANGED, revision))]
        del talk.appends[append.first_seq]
        talk.appended.pop(append.request_id, None)
        del self.happenings[talk.told.pop((APPENDED, append.first_seq))]

    def drop_unsaid_texts(self, talk: Talk) -> None:
        """Lets go of texts kept apart that no message and no revision has any more."""
        said = [message for append in talk.appends.values() for message in append.said]
        states = [change.state for change in talk.changes.values() if isinstance(change.state, Message)]
        bodies = [message.draft.body for message in (*said, *states)]
        kept = {body.sha256 for body in bodies if body is not None}
        talk.bodies = {sha256: content for sha256, content in talk.bodies.items() if sha256 in kept}

    async def something_happens(self, timeout_seconds: float) -> None:
        """Returns when something has happened, or nothing for so long."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait([waiting], timeout=timeout_seconds)
        finally:
            self._waiting.discard(waiting)

    def _tell(self, talk: Talk, kind: str, number: int = 0) -> None:
        talk.told[kind, number] = self.last_number + 1
        self._happened(Told(talk, kind, number))

    def _happened(self, happening: Happening) -> None:
        self.last_number += 1
        self.happenings[self.last_number] = happening
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


def target_of(state: State) -> tuple[str, ...]:
    """What an act was done to."""
    if isinstance(state, Message):
        return (state.message_id,)
    return (state.kind.value, state.entry_id) if isinstance(state, Entry) else ()


def append_of(batch: Batch, first_seq: int, at: datetime) -> Append:
    """The batch, said at that moment, from `first_seq` on."""
    return Append(batch.request_id, batch.fingerprint, tuple(batch.placed(first_seq, at)))


def moment(clock: Clock) -> datetime:
    """The present, as precise as it is kept."""
    now = clock.now()
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def milliseconds_of(time: datetime) -> int:
    """The moment as it stands in the ids of events."""
    return round(time.timestamp() * 1000)
