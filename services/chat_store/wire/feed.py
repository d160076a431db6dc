"""What the feed and the followers of a conversation are told: model → proto."""

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import event_service_pb2 as event_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.chat_store.v1 import task_service_pb2 as task_pb
from services.chat_store.entries import Entry, EntryKind
from services.chat_store.following import Gone, Update
from services.chat_store.happenings import Appended, Changed, Event, Purged, Shard
from services.chat_store.model import Conversation, Message
from services.chat_store.wire.conversations import conversation_to_proto
from services.chat_store.wire.entries import event_to_proto, task_to_proto
from services.chat_store.wire.messages import message_to_proto, messages_to_proto
from services.chat_store.wire.values import set_time


def shard_of(request: feed_pb.WatchEventsRequest) -> Shard:
    """The share of the feed asked for; the contract keeps the index below the count."""
    return Shard(request.shard_count or 1, request.shard_index)


def happening_to_proto(happened: Event) -> feed_pb.Event:
    """An event as consumers see it."""
    sent = feed_pb.Event(
        event_id=happened.event_id,
        resume_token=happened.resume_token,
        tenant_id=happened.tenant_id,
        conversation_id=happened.conversation_id,
    )
    set_time(sent, "event_time", happened.time)
    match happened.what:
        case Conversation() as created:
            sent.conversation_created.conversation.CopyFrom(conversation_to_proto(created))
        case Appended() as appended:
            sent.messages_appended.CopyFrom(_appended_to_proto(appended))
        case Changed() as changed:
            _set_change(sent, changed)
        case Purged():
            sent.conversation_purged.SetInParent()
        case None:
            pass
    return sent


def update_to_proto(update: Update, conversation_id: str) -> pb.ConversationUpdate:
    """What a follower of a conversation is told."""
    match update:
        case Message():
            return pb.ConversationUpdate(message_changed=message_to_proto(update))
        case Conversation():
            return pb.ConversationUpdate(conversation_changed=conversation_to_proto(update))
        case Entry(kind=EntryKind.TASK, removed=True):
            return pb.ConversationUpdate(task_deleted=task_pb.TaskDeleted(task_id=update.entry_id))
        case Entry(kind=EntryKind.TASK):
            return pb.ConversationUpdate(task_changed=task_to_proto(update, conversation_id))
        case Entry(removed=True):
            return pb.ConversationUpdate(event_deleted=event_pb.EventDeleted(event_id=update.entry_id))
        case Entry():
            return pb.ConversationUpdate(event_recorded=event_to_proto(update, conversation_id))
        case Gone():
            return pb.ConversationUpdate(deleted=pb.ConversationDeleted())


def _appended_to_proto(appended: Appended) -> feed_pb.MessagesAppended:
    return feed_pb.MessagesAppended(
        messages=messages_to_proto(appended.messages),
        user_id=appended.user_id,
        assistant_id=appended.assistant_id,
        team_id=appended.team_id,
        channel=appended.channel,
    )


def _set_change(sent: feed_pb.Event, changed: Changed) -> None:
    match changed.state:
        case Conversation() as conversation:
            sent.conversation_changed.conversation.CopyFrom(conversation_to_proto(conversation))
            sent.conversation_changed.actor = changed.actor
        case Message() as message:
            sent.message_changed.CopyFrom(_message_changed_to_proto(message, changed))
        case Entry() as entry:
            _set_entry_change(sent, entry, changed.actor)


def _message_changed_to_proto(message: Message, changed: Changed) -> feed_pb.MessageChanged:
    return feed_pb.MessageChanged(
        message=message_to_proto(message),
        actor=changed.actor,
        user_id=changed.user_id,
        assistant_id=changed.assistant_id,
        team_id=changed.team_id,
        channel=changed.channel,
    )


def _set_entry_change(sent: feed_pb.Event, entry: Entry, actor: str) -> None:
    match entry:
        case Entry(kind=EntryKind.TASK, removed=True):
            sent.task_deleted.CopyFrom(task_pb.TaskDeleted(task_id=entry.entry_id, actor=actor))
        case Entry(kind=EntryKind.TASK):
            task = task_to_proto(entry, sent.conversation_id)
            sent.task_changed.CopyFrom(feed_pb.TaskChanged(task=task, actor=actor))
        case Entry(removed=True):
            sent.event_deleted.CopyFrom(event_pb.EventDeleted(event_id=entry.entry_id, actor=actor))
        case Entry():
            event = event_to_proto(entry, sent.conversation_id)
            sent.event_recorded.CopyFrom(feed_pb.EventRecorded(event=event, actor=actor))
