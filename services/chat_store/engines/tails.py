"""What a level of the cache is: the ends of active conversations, each with the version that it was read at."""

from collections.abc import Sequence
from typing import Protocol

from services.chat_store.model import Message
from services.chat_store.selection import Page, Version, Window

# Of each conversation; less than a page may take, so that what a tail holds of a window is a page.
TAIL_MESSAGES = 100
TAIL_BYTES = 512 * 1024


class Held(Protocol):
    """A page as the conversation had it at the version."""

    @property
    def version(self) -> Version:
        """What the conversation was at; at any other version the page is not to be given out."""
        ...

    def page(self) -> Page:
        """The page, for who knows that the conversation is at that version now; ValueError when it cannot be read."""
        ...


class Tails(Protocol):
    """One level of the cache. Whatever it lost, kept or was not told, the version tells. May raise Unavailable."""

    @property
    def level(self) -> str:
        """What metrics call it."""
        ...

    @property
    def available(self) -> bool:
        """Whether it can be asked now."""
        ...

    async def page(self, tenant_id: str, conversation_id: str, window: Window) -> Held | None:
        """The window as far as the tail holds it whole; None when it does not."""
        ...

    async def keep(self, tenant_id: str, conversation_id: str, version: Version, newest: Sequence[Message]) -> None:
        """Keeps the messages, newest first, as the end of the conversation at that version."""
        ...

    async def extend(self, tenant_id: str, conversation_id: str, appended: Sequence[Message]) -> None:
        """Adds what was just appended, if the tail ends right before it."""
        ...

    async def forget(self, tenant_id: str, conversation_id: str) -> int:
        """Removes the tail; how many there were."""
        ...

    async def forget_all(self, tenant_id: str) -> int:
        """Removes all tails of the tenant, looking through all; how many there were."""
        ...

    async def count_by(self, tenant_id: str, user_id: str) -> int:
        """How many messages in the tenant's tails are by the user or carry their feedback, looking through all."""
        ...


def concerns(message: Message, user_id: str) -> bool:
    """Whether the message is by the user or carries their feedback."""
    return user_id == message.draft.user_id or (message.feedback is not None and user_id == message.feedback.user_id)
