"""The law of a chat store. Every engine keeps it; tests/chat_store/store_contract.py has a test of the same name
for each rule, and every engine is bound to all of them.

Conversations

- Creating must make a conversation or get the one of that id within reach, and two creations at once must make one
  conversation (`test_creating_twice_makes_one_conversation`). An id outside of the reach must look like a missing
  one (`test_second_tenant_sees_nothing`, `test_another_user_sees_nothing`). The same request_id with another payload
  must be refused (`test_creating_with_a_reused_request_id_is_refused`).
- A conversation must show the sums over its messages as soon as an append is acknowledged
  (`test_totals_are_the_sums_over_the_messages`).
- The list must be ordered by last activity, the newest first, with the id deciding between equals, and its pages must
  neither skip nor repeat what does not move (`test_list_pages_by_last_activity_without_gaps`). It must never read a
  message (`test_lists_never_read_messages`).

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

Feed

- From the beginning the feed must tell everything stored, a conversation before its messages, then what happens
  (`test_feed_from_the_beginning_equals_history`, `test_feed_goes_on_live_after_history`).
- From a token it must miss nothing that happened after it, whoever writes at the same time
  (`test_feed_resumes_without_a_gap_under_concurrent_appends`, `test_feed_history_resumes_in_its_middle`), also when the
  engine no longer remembers that far back (`test_a_token_too_old_falls_back_to_history`).
- An event must have the same id and content each time (`test_events_are_the_same_each_time`).
- An idle feed must give a fresh token now and then (`test_an_idle_feed_gives_fresh_tokens`).
- A tenant's feed must tell that tenant's events only (`test_a_tenants_feed_tells_its_own_events_only`).
- A token that no store made, or another feed's, must be refused (`test_foreign_tokens_are_refused`).
- Leaving the feed must free what it holds, at once (`test_leaving_the_feed_frees_its_cursor`).
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from services.chat_store.model import (
    Batch,
    Conversation,
    Event,
    Message,
    NewConversation,
    Page,
    Reach,
    Selection,
    Window,
)


class ChatStore(Protocol):
    """Keeps conversations as the law above says. Every method raises Unavailable while the engine is away."""

    async def create(self, reach: Reach, new: NewConversation) -> Conversation:
        """Makes or gets a conversation; NotFound if the id is taken outside of the reach; RequestIdReused."""
        ...

    async def get(self, reach: Reach, conversation_id: str) -> Conversation:
        """The conversation; NotFound."""
        ...

    async def select(self, reach: Reach, selection: Selection) -> tuple[list[Conversation], bool]:
        """Conversations by falling last activity, and whether there are more."""
        ...

    async def append(self, reach: Reach, conversation_id: str, batch: Batch) -> list[Message]:
        """Stores the batch at the end; NotFound, RequestIdReused, AlreadyExists (a message id), Conflict."""
        ...

    async def read(self, reach: Reach, conversation_id: str, window: Window) -> Page:
        """The first page of the window; NotFound."""
        ...

    def watch(self, tenant_id: str, resume_token: str) -> AsyncGenerator[Event, None]:
        """What happened after the token ("" = from the beginning) to a tenant's conversations ("" = to all).

        Never ends by itself. InvalidArgument with reason RESUME_TOKEN_INVALID.
        """
        ...

    async def ready(self) -> None:
        """Returns when the store can serve; Unavailable."""
        ...
