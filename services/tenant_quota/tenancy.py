"""Whom a request concerns, and whether its caller may name them."""

import re

from services.tenant_quota.model import PERMISSIONS
from shared.caller import ACT_AS, Caller, current_caller
from shared.errors import FieldViolation, InvalidArgument, NotFound, PermissionDenied

TENANTS_ADMIN = "tenants.admin"
TENANT_MANAGE = "tenant.manage"
USAGE_READ_ALL = "usage.read_all"

# What no tenant can be called reaches no store: there "*" and "," mean something else.
_TENANT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def named_tenant(tenant_id: str) -> str:
    """The tenant named by the request, which must be the caller's own unless the caller administers all.

    PermissionDenied (TENANT_MISMATCH) whether the other tenant exists or not; NotFound for what is no tenant's id.
    """
    caller = current_caller()
    if not caller.may(TENANTS_ADMIN) and tenant_id != caller.tenant_id:
        raise PermissionDenied("the request names another tenant", reason="TENANT_MISMATCH")
    if not _TENANT_ID.fullmatch(tenant_id):
        raise NotFound("tenant", tenant_id)
    return tenant_id


def tenant_or_own(tenant_id: str) -> str:
    """As named_tenant; the caller's own when none is named. InvalidArgument when the caller has none of its own."""
    own = current_caller().tenant_id
    if not tenant_id and not own:
        text = "must be named by a caller that belongs to no tenant"
        raise InvalidArgument(violations=[FieldViolation("tenant_id", text, "tenant_id.required")])
    return named_tenant(tenant_id or own)


def own_tenant() -> str:
    """The caller's tenant; PermissionDenied (TENANT_MISMATCH) when the caller belongs to none."""
    tenant_id = current_caller().tenant_id
    if not tenant_id:
        raise PermissionDenied("the caller belongs to no tenant", reason="TENANT_MISMATCH")
    return tenant_id


def visible_user(user_id: str) -> str:
    """The user named, as far as the caller may see them: everybody for an administrator, else only themselves.

    NotFound otherwise, as for a user who does not exist.
    """
    caller = current_caller()
    if user_id and user_id != caller.user_id and not _sees_all(caller):
        raise NotFound("user", user_id)
    return user_id


def visible_key(key_id: str) -> str:
    """The key named, as far as the caller may see it: as visible_user, with the caller's own key."""
    caller = current_caller()
    if key_id and key_id != caller.key_id and not _sees_all(caller):
        raise NotFound("api_key", key_id)
    return key_id


def user_or_own(user_id: str, tenant_id: str) -> str:
    """As visible_user; the caller when none is named and the tenant is the caller's own."""
    caller = current_caller()
    return visible_user(user_id or (caller.user_id if caller.tenant_id == tenant_id else ""))


def ledger_users(user_id: str) -> tuple[bool, str | None]:
    """Whether any entry may be shown, and whose: None is everybody's."""
    caller = current_caller()
    if _sees_all(caller):
        return True, user_id or None
    return user_id in ("", caller.user_id), caller.user_id


def grantable() -> frozenset[str]:
    """The permissions that the caller may give to others: its own; all, when it administers the platform."""
    caller = current_caller()
    return frozenset().union(*PERMISSIONS.values()) if caller.may(TENANTS_ADMIN) else caller.scopes


def manages() -> bool:
    """Whether the caller manages whatever tenant it may name."""
    return current_caller().may(TENANT_MANAGE)


def _sees_all(caller: Caller) -> bool:
    # A service that acts for somebody has that person's reach: its own permission must not lend a member more.
    in_background = caller.may(USAGE_READ_ALL) and not caller.may(ACT_AS)
    return in_background or caller.may(TENANT_MANAGE) or caller.may(TENANTS_ADMIN)
