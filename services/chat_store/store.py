"""The law of a chat store. Every engine and every wrapper keeps it; the contracts in tests/chat_store (`*_contract.py`)
have a test of the same name for each rule, and every engine is bound to all of them.

Conversations

- Creating must make a conversation or get the one of that id within reach, and two creations at once must make one
  conversation (`test_creating_twice_makes_one_conversation`). An id outside of the reach must look like a missing
  one (`test_second_tenant_sees_nothing`, `test_another_user_sees_nothing`). The same request_id with another payload
  must be refused (`test_creating_with_a_reused_request_id_is_refused`).
- A conversation must show the sums over its messages as soon as an append is acknowledged
  (`test_totals_are_the_sums_over_the_messages`).
- The list must be ordered by last activity, the newest first, with the id deciding between equals, and its pages must
  neither skip nor repeat what does not move (`test_list_pages_by_last_activity_without_gaps`). It must never read a
  message (`test_lists_never_read_messages`), and its filters must all hold together (`test_lists_are_filtered`).
- An act must be applied whole or not at all, to what all acts before it left (`test_concurrent_acts_are_all_applied`);
  one that changes nothing must leave no trace (`test_an_act_without_effect_leaves_no_trace`). The same request_id and
  payload must act once and return what the act left (`test_a_retried_act_acts_once`); another payload must be refused
  (`test_an_act_with_a_reused_request_id_is_refused`).
- A finalized conversation must take no messages and no edits, whoever writes at the same time
  (`test_a_finalized_conversation_takes_no_messages`).
- A deleted conversation must look missing to all but the list of deleted ones and its undeletion
  (`test_a_deleted_conversation_looks_missing_until_it_is_brought_back`), save to readers whose reach includes it
  (`test_a_reach_that_includes_deleted_conversations_reads_them`); an expired one must look missing to all
  (`test_an_expired_conversation_looks_missing`), and its id must be free for a new one
  (`test_the_id_of_an_expired_conversation_can_be_used_again`). An append must put the expiry off
  (`test_activity_puts_expiry_off`).

Messages

- A batch must be stored whole, its messages next to each other, or not at all
  (`test_a_batch_is_contiguous_among_concurrent_writers`).
- `seq` must start at 1 and grow by one, whoever writes at the same time (`test_seq_is_dense_and_strictly_increasing`).
- An acknowledged append must be durable, and what an interrupted append left behind must heal
  (`test_a_crash_between_messages_and_header_heals`).
- The same request_id and payload must store once and return what was stored then
  (`test_a_retry_returns_what_was_stored`, `test_concurrent_retries_store_once`); another payload must be refused
  (`test_a_reused_request_id_is_refused`).
- A message_id must be unique in its conversation: the same message again without a request_id is a retry, another one
  must be refused (`test_a_message_id_is_unique_in_its_conversation`).
- Everything said must come back as it was said (`test_messages_come_back_as_they_were_said`); the store's own syntax
  in it must mean nothing (`test_hostile_text_and_metadata_are_only_data`).
- Pages must be readable from any position in both directions, by `seq` alone
  (`test_pages_from_any_position_in_both_directions`), and must end before they pass PAGE_BYTES
  (`test_a_page_ends_before_two_mebibytes`).
- Appending and reading the first or last page must cost the same at any length
  (`test_append_and_first_or_last_page_cost_the_same_at_any_length`), and no length and no batch may hit a limit of the
  engine (`test_no_conversation_hits_16_mb`).
- A text that is kept apart must come back whole, byte for byte, and pages must stay small
  (`test_a_large_text_is_kept_apart_and_comes_back_whole`); one that goes while it is read must not look like a shorter
  one (`test_a_text_that_goes_while_it_is_read_is_not_cut_off`), and one that was refused must leave nothing behind
  (`test_a_refused_text_is_not_kept`).
- A changed message must be shown as it is now wherever it is shown, and each of its revisions must be kept
  (`test_a_revised_message_is_shown_as_it_is_now`, `test_every_revision_is_kept`); also as the preview of its
  conversation (`test_the_preview_is_of_the_last_message_as_it_is_now`).
- A version must change with every acknowledged write to the messages or the conversation, and what is read after it
  must not be older (`test_the_version_changes_with_every_write`).

Entries

- Entries must be listed by creation, the newest first, of one kind and label, in pages without gaps
  (`test_entries_are_listed_newest_first`); a removed one must look missing and its id be free
  (`test_a_removed_entry_looks_missing`).

Search (search_contract.py)

- What was acknowledged must be found at once, in Portuguese and English, accents and inflections apart
  (`test_what_was_just_said_is_found`); an edited message by its new words only
  (`test_an_edited_message_is_found_by_its_new_words_only`).
- All words must be in the message; filters and reach must hold (`test_search_is_filtered`,
  `test_search_finds_nothing_out_of_reach`); what is deleted or expired must not be found
  (`test_what_is_gone_is_not_found`).
- Pages must neither skip nor repeat, in both orders (`test_search_pages_without_gaps`).
- A very common word must cost no more than SEARCH_CANDIDATES messages, and the result must say so
  (`test_a_common_word_is_bounded_and_says_so`).

Feed (feed_contract.py)

- From the beginning the feed must tell everything stored, a conversation before its messages, messages and entries
  before their changes, and all this as it was then; then what happens (`test_feed_from_the_beginning_equals_history`,
  `test_feed_tells_changes_in_their_order`, `test_feed_goes_on_live_after_history`).
- From a token it must miss nothing that happened after it, whoever writes at the same time
  (`test_feed_resumes_without_a_gap_under_concurrent_appends`, `test_feed_history_resumes_in_its_middle`), also when the
  engine no longer remembers that far back (`test_a_token_too_old_falls_back_to_history`).
- An event must have the same id and content each time (`test_events_are_the_same_each_time`), save for what was
  forgotten since; the ids of a conversation whose id is used again must be new (`test_event_ids_are_never_used_again`).
- A purge must be told, also from the beginning, before a later conversation of that id (`test_a_purge_is_told`).
- The shards of a feed must share everything out, a conversation always to the same one
  (`test_shards_share_out_the_feed`).
- From the present position the feed must tell only what happens from then on (`test_feed_from_now_skips_history`).
- An idle feed must give a fresh token now and then (`test_an_idle_feed_gives_fresh_tokens`).
- A tenant's feed must tell that tenant's events only (`test_a_tenants_feed_tells_its_own_events_only`).
- A token that no store made, or another feed's, must be refused (`test_foreign_tokens_are_refused`).
- Leaving the feed must free what it holds, at once (`test_leaving_the_feed_frees_its_cursor`).

Upkeep (upkeep_contract.py)

- What is due must be found in the order of its time, and a purge must leave nothing of the conversation but that it was
  purged (`test_what_is_due_is_found`, `test_a_purge_leaves_nothing`); one whose condition no longer holds must purge
  nothing (`test_a_purge_spares_what_is_no_longer_due`).
- Trimming must take the oldest messages in whole appends, keep at least those asked for, and keep `seq`
  (`test_trimming_takes_whole_appends`).
- Forgetting an author must blank what they said in the conversations of others, in every place that keeps it, and a
  scan must find nothing afterwards (`test_an_author_is_forgotten`).
- The audit's links must be kept in order, each place once, and never be changed or removed
  (`test_links_take_their_place_once`).
- A dump loaded into an empty store must make an equal one: same pages, lists, feed, searches, retries
  (`test_a_dump_makes_an_equal_store`). A conversation that is there already must stay as it is, and go on, whatever a
  later or an earlier dump says of it (`test_a_dump_mixes_no_two_states_of_a_conversation`).
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from services.chat_store.acts import ConversationAct, EntryAct, MessageAct
from services.chat_store.audit_chain import AuditLink
from services.chat_store.batch import Batch
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.happenings import Event, Shard
from services.chat_store.model import Conversation, Message, NewConversation
from services.chat_store.policy import Policy
from services.chat_store.selection import (
    Entries,
    EntrySelection,
    Found,
    Page,
    Reach,
    Search,
    Selection,
    Version,
    Window,
)
from services.chat_store.snapshot import Piece

# Most messages that one search looks at beside the index, when their words are common.
SEARCH_CANDIDATES = 1000
WHOLE_FEED = Shard()


class EntryStore(Protocol):
    """Keeps the tasks and events of conversations."""

    async def act(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str, act: EntryAct) -> Entry:
        """The entry as the act left it; NotFound for the conversation, RequestIdReused, what the act refuses."""
        ...

    async def get(self, reach: Reach, conversation_id: str, kind: EntryKind, entry_id: str) -> Entry:
        """The entry; NotFound."""
        ...

    async def select(self, reach: Reach, conversation_id: str, selection: EntrySelection) -> Entries:
        """A page of entries; NotFound for the conversation."""
        ...


class AuditStore(Protocol):
    """Keeps the audit chains, one a tenant; nothing in it is ever changed or removed."""

    async def add(self, link: AuditLink) -> bool:
        """Keeps the link, durably; False when its number is taken already."""
        ...

    async def last(self, tenant_id: str) -> AuditLink | None:
        """The end of the tenant's chain."""
        ...

    async def read(self, tenant_id: str, after_number: int, limit: int) -> list[AuditLink]:
        """The links after that number, in their order."""
        ...

    async def read_back(self, tenant_id: str, before_number: int, limit: int) -> list[AuditLink]:
        """The links before that number (0 = from the end), the latest first."""
        ...


class Upkeep(Protocol):
    """What the service does by itself, for all tenants: no caller's reach bounds it."""

    async def policy(self, tenant_id: str) -> Policy:
        """The tenant's policy; the default one when none was set."""
        ...

    async def set_policy(self, tenant_id: str, policy: Policy) -> None:
        """Keeps it from now on."""
        ...

    async def policies(self) -> list[tuple[str, Policy]]:
        """Those that were set, by tenant."""
        ...

    async def leaving(self, at: datetime, limit: int) -> list[tuple[str, str]]:
        """Tenant and id of conversations whose leave_time is `at` or before, the earliest first."""
        ...

    async def idle(self, tenant_id: str, before: datetime, limit: int) -> list[str]:
        """Ids of the tenant's conversations whose last activity was before that, the earliest first."""
        ...

    async def purge(
        self, tenant_id: str, conversation_id: str, when: Callable[[Conversation], bool] | None = None
    ) -> Mapping[str, int]:
        """Removes all of a conversation if it is still as `when` wants it: how many of what were removed, by place.

        Finds nothing = {}. Without `when` it also removes what a crash left of a conversation without a header.
        """
        ...

    async def trim(self, tenant_id: str, conversation_id: str, keep_from: int) -> int:
        """Removes the appends all of whose messages are before `keep_from`; how many messages that were."""
        ...

    async def forget_author(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """Blanks the user's messages and feedback in conversations of others: how many of what."""
        ...

    async def residue(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """What still says something of the user, by place, zeros included: a scan, not a look into an index."""
        ...

    def dump(self) -> AsyncGenerator[Piece, None]:
        """All that is kept; each conversation as it was at one moment, its pieces together, the conversation first."""
        ...

    async def load(self, pieces: Sequence[Piece]) -> None:
        """Takes pieces in as they are; what is there already stays, so loading again is safe."""
        ...


class ChatStore(Protocol):
    """Keeps conversations as the law above says. Every method raises Unavailable while the engine is away."""

    @property
    def entries(self) -> EntryStore:
        """Tasks and events."""
        ...

    @property
    def audit(self) -> AuditStore:
        """Who did what."""
        ...

    @property
    def upkeep(self) -> Upkeep:
        """What nobody has to ask for."""
        ...

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Makes or gets a conversation; NotFound if the id is taken outside of the reach; RequestIdReused."""
        ...

    async def get(self, reach: Reach, conversation_id: str) -> Conversation:
        """The conversation; NotFound."""
        ...

    async def version(self, reach: Reach, conversation_id: str) -> Version:
        """What the conversation is at, cheaper than reading it; nothing that is read afterwards is older; NotFound."""
        ...

    async def select(self, reach: Reach, selection: Selection) -> tuple[list[Conversation], bool]:
        """Conversations by falling last activity, and whether there are more."""
        ...

    async def act(self, reach: Reach, conversation_id: str, act: ConversationAct) -> Conversation:
        """The conversation as the act left it; NotFound, RequestIdReused, what the act refuses."""
        ...

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """Stores the batch at the end; NotFound, ConversationClosed, RequestIdReused, AlreadyExists, Conflict."""
        ...

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """The first page of the window; NotFound."""
        ...

    async def message(self, reach: Reach, conversation_id: str, message_id: str) -> Message:
        """The message as it is now; NotFound."""
        ...

    async def revise(self, reach: Reach, conversation_id: str, message_id: str, act: MessageAct) -> Message:
        """The message as the act left it; NotFound, RequestIdReused, what the act refuses."""
        ...

    async def revisions(
        self, reach: Reach, conversation_id: str, message_id: str, after: int, limit: int
    ) -> tuple[list[Message], bool]:
        """The message at its revisions above `after` (-1 = from the first), and whether there are more; NotFound."""
        ...

    def text(self, reach: Reach, conversation_id: str, message_id: str) -> AsyncGenerator[bytes, None]:
        """The whole text of the message, UTF-8, in chunks of at most BODY_CHUNK_BYTES; NotFound."""
        ...

    async def search(self, reach: Reach, search: Search) -> Found:
        """A page of the messages that have the words. Of texts, MAX_INDEXED_CHARACTERS are looked through."""
        ...

    def watch(self, tenant_id: str, resume_token: str, shard: Shard = WHOLE_FEED) -> AsyncGenerator[Event, None]:
        """What happened after the token ("" = from the beginning) to a tenant's conversations ("" = to all).

        Never ends by itself. InvalidArgument with reason RESUME_TOKEN_INVALID, also for another shard's token.
        """
        ...

    async def position(self, tenant_id: str) -> str:
        """The token from which the whole feed of the tenant ("" = of all) tells what happens from now on."""
        ...

    async def ready(self) -> None:
        """Returns when the store can serve; Unavailable."""
        ...
