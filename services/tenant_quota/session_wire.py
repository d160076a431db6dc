"""Sessions on the wire: model → proto."""

from prosa.tenant_quota.v1 import session_service_pb2 as pb
from services.tenant_quota.model import Session
from services.tenant_quota.wire import timestamp


def session_message(session: Session) -> pb.Session:
    """The session as clients see it, without its credential."""
    return pb.Session(
        session_id=session.session_id,
        tenant_id=session.tenant_id,
        user_id=session.user_id,
        create_time=timestamp(session.create_time),
        expire_time=timestamp(session.expire_time),
        revoke_time=timestamp(session.revoke_time),
        last_use_time=timestamp(session.last_use_time),
    )
