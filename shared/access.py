"""Who may call what: the access rule in the contract of each method, against the tokens in the call's metadata.

A method whose contract declares no rule is refused to everybody.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf import descriptor_pool

from prosa.common.v1 import access_pb2
from shared.caller import ACT_AS, Caller, TokenVerifier, on_behalf
from shared.errors import PermissionDenied, Unauthenticated

AUTHORIZATION = "authorization"
SUBJECT_TOKEN = "x-prosa-subject-token"  # noqa: S105 the name of a header

# Probes and tools ask these before anybody has an identity.
_EXEMPT_SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")

# Contracts of others carry no rule of ours; a method of theirs that is not listed is refused to everybody.
_FOREIGN_METHODS = {"envoy.service.ratelimit.v3.RateLimitService.ShouldRateLimit": "rates.check"}

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class AccessRule:
    """`permission` the caller must hold, or `public`; with neither the method is refused."""

    permission: str = ""
    public: bool = False


def is_exempt(method: str) -> bool:
    """Whether "/package.Service/Method" belongs to health or reflection."""
    return method.lstrip("/").rpartition("/")[0] in _EXEMPT_SERVICES


def access_rule(method: str) -> AccessRule:
    """The rule of "/package.Service/Method", by its contract or for a foreign one; a refusing one without either."""
    if is_exempt(method):
        return AccessRule(public=True)
    name = method.lstrip("/").replace("/", ".")
    if name in _FOREIGN_METHODS:
        return AccessRule(permission=_FOREIGN_METHODS[name])
    try:
        descriptor = descriptor_pool.Default().FindMethodByName(name)
    except KeyError:
        return AccessRule()
    declared = descriptor.GetOptions().Extensions[access_pb2.access]
    return AccessRule(permission=declared.permission, public=declared.public)


def admitted_caller(rule: AccessRule, metadata: Metadata, verifier: TokenVerifier) -> Caller | None:
    """The caller, allowed to call a method of this rule; None when the method is public.

    Unauthenticated: CREDENTIALS_MISSING, _INVALID, _EXPIRED. PermissionDenied: PERMISSION_MISSING.
    """
    if rule.public:
        return None
    if not rule.permission:
        raise PermissionDenied("the method is closed", metadata={"permission": ""})
    caller = _caller(metadata, verifier)
    if not caller.may(rule.permission):
        raise _missing(rule.permission)
    return caller


def _caller(metadata: Metadata, verifier: TokenVerifier) -> Caller:
    authorization = subject_token = None
    for key, value in metadata:
        if key == AUTHORIZATION:
            authorization = value
        elif key == SUBJECT_TOKEN:
            subject_token = value
    actor = verifier.verify(_bearer(authorization))
    if subject_token is None:
        return actor
    if not actor.may(ACT_AS):
        raise _missing(ACT_AS)
    return on_behalf(actor, verifier.verify_subject(_text(subject_token)))


def _bearer(authorization: str | bytes | None) -> str:
    if authorization is None:
        raise Unauthenticated("no credentials were given", reason="CREDENTIALS_MISSING")
    scheme, _, token = _text(authorization).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated
    return token.strip()


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _missing(permission: str) -> PermissionDenied:
    return PermissionDenied("the caller lacks a permission", metadata={"permission": permission})
