"""The nouns and rules of tenants, users and keys: who may do what, and what a key looks like.

Roles carry the numbers of the contract, which are also what the tables keep.
"""

import re
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum

from shared.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    PermissionDenied,
    QuotaExceeded,
    RequestIdReused,
)

DEFAULT_TIME_ZONE = "America/Sao_Paulo"

# A key of the platform itself belongs to no tenant.
PLATFORM = ""


class Role(IntEnum):
    """A set of permissions with a name."""

    UNSPECIFIED = 0
    PLATFORM_ADMIN = 1
    TENANT_ADMIN = 2
    MEMBER = 3
    END_USER = 4
    SERVICE = 5


PERMISSIONS: Mapping[Role, frozenset[str]] = {
    Role.UNSPECIFIED: frozenset(),
    Role.PLATFORM_ADMIN: frozenset(
        {
            "tenants.admin",
            "tenant.manage",
            "account.manage",
            "quota.read",
            "documents.read",
            "documents.write",
            "library.write",
            "metrics.admin",
            "projection.rebuild",
        }
    ),
    Role.TENANT_ADMIN: frozenset(
        {
            "tenant.manage",
            "account.manage",
            "quota.read",
            "conversations.read",
            "conversations.list",
            "conversations.read_all",
            "conversations.write",
            "documents.read",
            "documents.write",
            "assistants.read",
            "assistants.write",
            "assistants.ask",
            "reports.read",
            "reports.repair",
            "metrics.write",
            "metrics.admin",
            "analyses.read",
            "analyses.write",
            "retention.manage",
            "privacy.manage",
            "audit.read",
        }
    ),
    Role.MEMBER: frozenset(
        {
            "account.manage",
            "quota.read",
            "conversations.read",
            "conversations.list",
            "conversations.write",
            "documents.read",
            "assistants.read",
            "assistants.ask",
        }
    ),
    Role.END_USER: frozenset({"assistants.ask", "assistants.read", "conversations.read", "conversations.write"}),
    Role.SERVICE: frozenset(
        {
            "act_as",
            "quota.reserve",
            "conversations.read",
            "conversations.list",
            "conversations.read_all",
            "conversations.write",
            "feed.read",
            "documents.read",
            "metrics.write",
            "quota.read",
            "usage.read_all",
        }
    ),
}
# What an internal service may do that acts for a tenant in the background, on nobody's behalf.
BACKGROUND_PERMISSIONS = PERMISSIONS[Role.SERVICE] & {
    "feed.read",
    "quota.read",
    "usage.read_all",
    "quota.reserve",
    "conversations.read",
    "conversations.list",
    "conversations.read_all",
    "conversations.write",
}
USER_ROLES = frozenset({Role.TENANT_ADMIN, Role.MEMBER})


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer or a prefeitura."""

    tenant_id: str
    display_name: str
    time_zone: str
    active: bool
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class User:
    """A person who belongs to one tenant."""

    tenant_id: str
    user_id: str
    display_name: str
    email: str
    role: Role
    active: bool
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential, without its secret."""

    key_id: str
    tenant_id: str
    user_id: str
    display_name: str
    role: Role
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None
    scopes: tuple[str, ...] = ()
    rotated_from: str = ""
    last_use_time: datetime | None = None

    @property
    def permissions(self) -> frozenset[str]:
        """What the key may do, as far as its user may."""
        return permissions_of(self.role, self.scopes)


@dataclass(frozen=True, slots=True)
class Session:
    """A person who logged in."""

    session_id: str
    tenant_id: str
    user_id: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None
    last_use_time: datetime | None


@dataclass(frozen=True, slots=True)
class ErasedTable:
    """What became of a person's rows in a table: deleted, or renamed to a pseudonym."""

    name: str
    deleted_rows: int
    renamed_rows: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Who stands behind a credential, and what it may do now; a session has its user's role."""

    key_id: str
    tenant_id: str
    user_id: str
    permissions: frozenset[str]
    role: Role


@dataclass(frozen=True, slots=True)
class Replay:
    """What makes a write safe to repeat: the client's id and a digest of everything else it sent."""

    request_id: str
    fingerprint: bytes

    def expect(self, fingerprint: bytes | None) -> None:
        """RequestIdReused when the id was used with another payload."""
        if fingerprint != self.fingerprint:
            raise RequestIdReused


class LoginThrottled(QuotaExceeded):
    """Too many passwords were tried for an e-mail address, whether anybody has it or not."""

    reason = "LOGIN_THROTTLED"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("too many passwords were tried for this address", retry_after_seconds=retry_after_seconds)


class ApiKeyEnded(FailedPrecondition):
    """The key was revoked, has expired or has a successor."""

    reason = "API_KEY_ENDED"
    usual_message = "the key is accepted no more, or was rotated before"


def permissions_of(role: Role, scopes: Iterable[str]) -> frozenset[str]:
    """The permissions of the role to which `scopes` narrows it; all of them when it names none."""
    narrowed = frozenset(scopes)
    return PERMISSIONS[role] & narrowed if narrowed else PERMISSIONS[role]


def forbid_escalation(wanted: Iterable[str], allowed: Iterable[str]) -> None:
    """PermissionDenied when one of the wanted permissions lies outside of `allowed`."""
    beyond = sorted(frozenset(wanted) - frozenset(allowed))
    if beyond:
        raise PermissionDenied("nobody gives more than they have", metadata={"permission": beyond[0]})


_ALPHABET = string.digits + string.ascii_letters
_SECRET_FORM = re.compile(r"(pk|ps)_[a-z0-9]{1,16}_([0-9A-Za-z]{8,32})_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}")


class Kind(Enum):
    """What a credential is the secret of; its first two letters."""

    API_KEY = "pk"
    SESSION = "ps"


@dataclass(frozen=True, slots=True)
class Credential:
    """The secret of an API key or a session, taken apart: `<kind>_<environment>_<id>_<secret>_<checksum>`."""

    kind: Kind
    key_id: str
    text: str = field(repr=False)


def new_secret(environment: str = "live", *, kind: Kind = Kind.API_KEY) -> str:
    """A fresh credential of 256 random bits; `environment` (lower-case letters, digits) tells people where it works."""
    body = f"{kind.value}_{environment}_{_random(16)}_{_random(43)}"
    secret = f"{body}_{_checksum(body)}"
    if parse_secret(secret) is None:
        raise ValueError("an environment is 1 to 16 lower-case letters and digits")
    return secret


def parse_secret(text: str) -> Credential | None:
    """The credential in `text`, or None when it is none: a mistyped one is recognised without asking the database."""
    match = _SECRET_FORM.fullmatch(text)
    if match is None:
        return None
    body, _, checksum = text.rpartition("_")
    return Credential(Kind(match[1]), match[2], text) if checksum == _checksum(body) else None


def own_credential(secret: str) -> Credential:
    """The credential in a secret that we made; ValueError when it is none."""
    credential = parse_secret(secret)
    if credential is None:
        raise ValueError("not an API key; `python -m services.tenant_quota new-key` makes one")
    return credential


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(digits)


_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+|[^@\s]+@localhost")


def clean_text(name: str, value: str, maximum: int) -> str:
    """`value` trimmed; InvalidArgument when nothing or too much is left."""
    trimmed = value.strip()
    if not 1 <= len(trimmed) <= maximum:
        rule = "string.min_len" if not trimmed else "string.max_len"
        raise InvalidArgument(violations=[FieldViolation(name, f"must have 1 to {maximum} characters", rule)])
    return trimmed


def clean_email(name: str, value: str) -> str:
    """The address in the form that is unique on the platform; InvalidArgument when it is none."""
    address = clean_text(name, value, 254).lower()
    if not _EMAIL.fullmatch(address):
        raise InvalidArgument(violations=[FieldViolation(name, "must be an e-mail address", "string.email")])
    return address


def clean_mask(paths: Sequence[str], known: Iterable[str]) -> frozenset[str]:
    """The fields named by an update mask; InvalidArgument when it names none or an unknown one."""
    wanted, allowed = frozenset(paths), sorted(known)
    unknown = sorted(wanted - frozenset(allowed))
    if unknown or not wanted:
        text = f"must name some of {', '.join(allowed)}" + (f", not {unknown[0]}" if unknown else "")
        raise InvalidArgument(violations=[FieldViolation("update_mask", text, "field_mask.in")])
    return wanted


def clean_scopes(name: str, scopes: Sequence[str], role: Role) -> tuple[str, ...]:
    """The permissions to which a key is narrowed, sorted; InvalidArgument when one is none of the role's."""
    unknown = sorted(frozenset(scopes) - PERMISSIONS[role])
    if unknown:
        text = f"{unknown[0]} is no permission of the role"
        raise InvalidArgument(violations=[FieldViolation(name, text, "repeated.scopes")])
    return tuple(sorted(frozenset(scopes)))


def clean_role(name: str, role: Role, allowed: Iterable[Role]) -> Role:
    """`role`, or InvalidArgument when it is not one of `allowed`."""
    if role not in frozenset(allowed):
        raise InvalidArgument(violations=[FieldViolation(name, "is not a role one can have here", "enum.in")])
    return role
