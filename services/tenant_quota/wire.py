"""Tenants, users and keys on the wire: proto ↔ model, both ways, and what every request is checked for."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.tenant_quota.v1 import tenant_service_pb2 as pb
from services.tenant_quota.authenticate import Grant
from services.tenant_quota.model import (
    USER_ROLES,
    ApiKey,
    ErasedTable,
    Replay,
    Role,
    Tenant,
    User,
    clean_email,
    clean_mask,
    clean_role,
    clean_text,
)
from shared.errors import FieldViolation, InvalidArgument
from shared.paging import JSON, page_position, page_token

AnyMessage = TypeVar("AnyMessage", bound=Message)
Item = TypeVar("Item")


def checked(request: AnyMessage) -> AnyMessage:
    """The request itself; InvalidArgument when a text in it has a NUL, which PostgreSQL cannot keep."""
    for name in _texts_with_nul(request, ""):
        text = "must not contain the character U+0000"
        raise InvalidArgument(violations=[FieldViolation(name, text, "string.nul")])
    return request


def _texts_with_nul(message: Message, prefix: str) -> Iterable[str]:
    for field, value in message.ListFields():
        if isinstance(value, str) and "\0" in value:
            yield prefix + field.name
        elif isinstance(value, Message) and not isinstance(value, Timestamp | FieldMask):
            yield from _texts_with_nul(value, f"{prefix}{field.name}.")


def replay(request: Message, *context: str) -> Replay | None:
    """What makes the write safe to repeat; None without a request_id. `context` belongs to the payload too."""
    request_id: str = request.request_id  # type: ignore[attr-defined]
    if not request_id:
        return None
    payload = type(request)()
    payload.CopyFrom(request)
    payload.ClearField("request_id")
    digest = hashlib.sha256(payload.SerializeToString(deterministic=True))
    for each in context:
        digest.update(b"\0" + each.encode())
    return Replay(request_id, digest.digest())


def moment(name: str, stamp: Timestamp) -> datetime:
    """The instant; InvalidArgument outside of the years 1 to 9999."""
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        text = "must lie between the years 1 and 9999"
        raise InvalidArgument(violations=[FieldViolation(name, text, "timestamp.valid")]) from None


def optional_moment(name: str, request: Message) -> datetime | None:
    """The instant in the field of that name; None when it is unset."""
    return moment(name, getattr(request, name)) if request.HasField(name) else None


def position(token: str, query: Mapping[str, object], kind: type[Item]) -> tuple[datetime, Item] | None:
    """Where the page begins: after the item created then, with that id; None for the first page.

    InvalidArgument (PAGE_TOKEN_INVALID) for a place that no page of ours ends at.
    """
    place = page_position(token, query)
    if place is None:
        return None
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        time, name = datetime.fromisoformat(place["time"]).astimezone(UTC), place["id"]
        if isinstance(name, kind) and _could_be_an_id(name):
            return time, name
    raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID")


def _could_be_an_id(name: object) -> bool:
    return "\0" not in name if isinstance(name, str) else name in range(2**63)


def page(
    items: Sequence[Item], size: int, query: Mapping[str, object], key: Callable[[Item], tuple[datetime, JSON]]
) -> tuple[Sequence[Item], str]:
    """The items of a page out of `size` + 1 that were asked for, and the token of the next."""
    if len(items) <= size:
        return items, ""
    time, name = key(items[size - 1])
    return items[:size], page_token(query, {"time": time.isoformat(), "id": name})


def tenant_changes(request: pb.UpdateTenantRequest) -> dict[str, object]:
    """The new values of a tenant's fields."""
    mask = clean_mask(request.update_mask.paths, ("display_name", "time_zone", "active"))
    wanted = request.tenant
    changes: dict[str, object] = {}
    if "display_name" in mask:
        changes["display_name"] = clean_text("tenant.display_name", wanted.display_name, 200)
    if "time_zone" in mask:
        changes["time_zone"] = clean_text("tenant.time_zone", wanted.time_zone, 64)
    if "active" in mask:
        changes["active"] = wanted.active
    return changes


def user_changes(request: pb.UpdateUserRequest) -> dict[str, Any]:
    """The new values of a user's fields."""
    mask = clean_mask(request.update_mask.paths, ("display_name", "email", "role", "active"))
    wanted = request.user
    changes: dict[str, object] = {}
    if "display_name" in mask:
        changes["display_name"] = clean_text("user.display_name", wanted.display_name, 200)
    if "email" in mask:
        changes["email"] = clean_email("user.email", wanted.email)
    if "role" in mask:
        changes["role"] = clean_role("user.role", role("user.role", wanted.role), USER_ROLES)
    if "active" in mask:
        changes["active"] = wanted.active
    return changes


def key_changes(request: pb.UpdateApiKeyRequest) -> dict[str, object]:
    """The new values of a key's fields."""
    clean_mask(request.update_mask.paths, ("display_name",))
    return {"display_name": clean_text("api_key.display_name", request.api_key.display_name, 200)}


def role(name: str, number: int) -> Role:
    """The role of that number; InvalidArgument when there is none."""
    try:
        return Role(number)
    except ValueError:
        raise InvalidArgument(violations=[FieldViolation(name, "is no role", "enum.defined_only")]) from None


def tenant_message(tenant: Tenant) -> pb.Tenant:
    """The tenant as clients see it."""
    return pb.Tenant(
        tenant_id=tenant.tenant_id,
        display_name=tenant.display_name,
        time_zone=tenant.time_zone,
        active=tenant.active,
        create_time=timestamp(tenant.create_time),
        update_time=timestamp(tenant.update_time),
    )


def user_message(user: User) -> pb.User:
    """The user as clients see it."""
    return pb.User(
        user_id=user.user_id,
        tenant_id=user.tenant_id,
        display_name=user.display_name,
        email=user.email,
        role=pb.Role.ValueType(user.role),
        active=user.active,
        create_time=timestamp(user.create_time),
        update_time=timestamp(user.update_time),
    )


def api_key_message(key: ApiKey) -> pb.ApiKey:
    """The key as clients see it, without its secret."""
    return pb.ApiKey(
        key_id=key.key_id,
        tenant_id=key.tenant_id,
        user_id=key.user_id,
        display_name=key.display_name,
        role=pb.Role.ValueType(key.role),
        permissions=sorted(key.permissions),
        create_time=timestamp(key.create_time),
        expire_time=timestamp(key.expire_time),
        revoke_time=timestamp(key.revoke_time),
        scopes=key.scopes,
        rotated_from=key.rotated_from,
        last_use_time=timestamp(key.last_use_time),
    )


def erasure_message(erased: Sequence[ErasedTable]) -> pb.EraseUserResponse:
    """The receipt of an erasure."""
    tables = [
        pb.ErasedTable(name=each.name, deleted_rows=each.deleted_rows, renamed_rows=each.renamed_rows)
        for each in erased
    ]
    return pb.EraseUserResponse(tables=tables)


def grant_message(grant: Grant) -> pb.AuthenticateResponse:
    """The answer to Authenticate."""
    return pb.AuthenticateResponse(
        access_token=grant.token,
        expire_time=timestamp(datetime.fromtimestamp(grant.expires_at, UTC)),
        tenant_id=grant.principal.tenant_id,
        user_id=grant.principal.user_id,
        key_id=grant.principal.key_id,
        permissions=sorted(grant.principal.permissions),
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """The instant on the wire; unset when there is none."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
