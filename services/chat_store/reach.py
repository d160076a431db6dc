"""What a caller may see, and as whom they act."""

from services.chat_store.selection import Reach
from shared.caller import ACT_AS, Caller
from shared.errors import PermissionDenied

READ_ALL = "conversations.read_all"


def reach_of(caller: Caller) -> Reach:
    """A service that acts for somebody has that person's reach: its own scopes must not lend a member more."""
    if not caller.tenant_id:
        raise PermissionDenied("the caller belongs to no tenant, and conversations do")
    everyone = caller.may(READ_ALL) and not caller.may(ACT_AS)
    return Reach(caller.tenant_id, None if everyone else caller.user_id)


def listed_reach(caller: Caller, user_id: str) -> Reach | None:
    """Whose conversations to look through; None when there are none: the anonymous know theirs by id.

    PermissionDenied when `user_id` ("" = any) is somebody else's.
    """
    reach = reach_of(caller)
    if reach.user_id is None:
        return Reach(reach.tenant_id, user_id or None)
    if user_id not in ("", reach.user_id):
        raise PermissionDenied("only your own conversations", metadata={"permission": READ_ALL})
    return reach if reach.user_id else None


def searched_reach(caller: Caller, user_id: str, conversation_id: str) -> Reach | None:
    """As `listed_reach`; whoever names a conversation knows its id, the anonymous too."""
    reach = listed_reach(caller, user_id)
    return reach_of(caller) if reach is None and conversation_id else reach


def actor_of(caller: Caller) -> str:
    """Who acts, as the history of a conversation remembers it: the user, or a key without one."""
    return caller.user_id or caller.key_id
