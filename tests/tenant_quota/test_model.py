"""Rules that need no database."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tenant_quota.model import (
    PERMISSIONS,
    Kind,
    Replay,
    Role,
    clean_email,
    clean_mask,
    clean_role,
    clean_scopes,
    clean_text,
    forbid_escalation,
    new_secret,
    parse_secret,
    permissions_of,
)
from services.tenant_quota.quota_model import Limit, TokenUsage, Window, Wish, denial
from shared.errors import InvalidArgument, PermissionDenied, RequestIdReused

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def test_a_new_secret_is_recognised_and_shows_its_key_id() -> None:
    secret = new_secret("test")
    credential = parse_secret(secret)
    assert credential is not None
    prefix, environment, key_id, random, checksum = secret.split("_")
    assert (prefix, environment, key_id) == ("pk", "test", credential.key_id)
    assert (len(random), len(checksum)) == (43, 6)


def test_a_session_is_told_from_a_key_by_its_first_letters() -> None:
    secret = new_secret("test", kind=Kind.SESSION)
    credential = parse_secret(secret)
    assert secret.startswith("ps_test_")
    assert credential is not None
    assert credential.kind is Kind.SESSION
    assert parse_secret("pk" + secret[2:]) is None, "the checksum covers the kind"


def test_scopes_narrow_a_role_and_never_widen_it() -> None:
    assert permissions_of(Role.MEMBER, ()) == PERMISSIONS[Role.MEMBER]
    assert permissions_of(Role.MEMBER, ("documents.read", "tenants.admin")) == {"documents.read"}
    assert permissions_of(Role.MEMBER, ("tenants.admin",)) == frozenset()
    assert clean_scopes("scopes", ["quota.read", "documents.read", "quota.read"], Role.MEMBER) == (
        "documents.read",
        "quota.read",
    )
    with pytest.raises(InvalidArgument) as refused:
        clean_scopes("scopes", ["quota.read", "tenant.manage"], Role.MEMBER)
    assert refused.value.violations[0].field == "scopes"


def test_no_two_secrets_are_alike() -> None:
    assert len({new_secret() for _ in range(100)}) == 100


def test_a_credential_does_not_print_its_secret() -> None:
    secret = new_secret()
    assert secret not in repr(parse_secret(secret))


@given(st.integers(min_value=3, max_value=70), st.characters(codec="ascii"))
def test_one_wrong_character_is_noticed_without_asking_anybody(place: int, character: str) -> None:
    secret = new_secret("live")
    place %= len(secret)
    wrong = secret[:place] + character + secret[place + 1 :]
    assert (parse_secret(wrong) is None) == (wrong != secret)


@given(st.text(max_size=120))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert parse_secret(text) is None


def test_an_environment_is_a_plain_word() -> None:
    with pytest.raises(ValueError, match="lower-case"):
        new_secret("Not_Plain")


def test_the_roles_of_a_tenant_nest() -> None:
    assert PERMISSIONS[Role.END_USER] < PERMISSIONS[Role.MEMBER] < PERMISSIONS[Role.TENANT_ADMIN]


def test_a_platform_administrator_sees_no_conversation_and_of_documents_the_global_library() -> None:
    granted = PERMISSIONS[Role.PLATFORM_ADMIN]
    assert not [name for name in granted if name.startswith(("conversations", "assistants"))]
    # Without a tenant these reach the library alone: tests/document_rag/documents/test_collections.py.
    assert {name for name in granted if name.startswith("documents")} == {"documents.read", "documents.write"}
    assert [role for role, granted in PERMISSIONS.items() if "library.write" in granted] == [Role.PLATFORM_ADMIN]


def test_only_services_act_for_others() -> None:
    assert [role for role, granted in PERMISSIONS.items() if "act_as" in granted] == [Role.SERVICE]
    assert [role for role, granted in PERMISSIONS.items() if "quota.reserve" in granted] == [Role.SERVICE]


def test_nobody_gives_more_than_they_have() -> None:
    forbid_escalation(PERMISSIONS[Role.MEMBER], PERMISSIONS[Role.TENANT_ADMIN])
    with pytest.raises(PermissionDenied) as refused:
        forbid_escalation(PERMISSIONS[Role.TENANT_ADMIN], PERMISSIONS[Role.MEMBER])
    assert refused.value.metadata["permission"] == "analyses.read"


def test_text_is_trimmed_and_measured() -> None:
    assert clean_text("name", "  Prefeitura \n", 20) == "Prefeitura"
    for bad in ("", "   ", "x" * 21):
        with pytest.raises(InvalidArgument):
            clean_text("name", bad, 20)


def test_an_address_is_kept_in_lower_case() -> None:
    assert clean_email("email", " Maria@Exemplo.SP.gov.BR ") == "maria@exemplo.sp.gov.br"
    for bad in ("maria", "a@b@c.d", "a b@c.d", "@c.d"):
        with pytest.raises(InvalidArgument):
            clean_email("email", bad)


def test_a_mask_names_known_fields_and_at_least_one() -> None:
    assert clean_mask(["a", "a"], ("a", "b")) == {"a"}
    for bad in ([], ["c"], ["a", "*"]):
        with pytest.raises(InvalidArgument):
            clean_mask(bad, ("a", "b"))


def test_a_role_must_be_one_of_those_allowed() -> None:
    assert clean_role("role", Role.MEMBER, {Role.MEMBER}) is Role.MEMBER
    with pytest.raises(InvalidArgument):
        clean_role("role", Role.SERVICE, {Role.MEMBER})


def test_a_repetition_is_the_same_payload() -> None:
    Replay("id", b"one").expect(b"one")
    for other in (b"two", None):
        with pytest.raises(RequestIdReused):
            Replay("id", b"one").expect(other)


def test_a_minimum_above_the_tokens_wanted_is_refused() -> None:
    with pytest.raises(InvalidArgument) as refused:
        Wish("t", "u", "k", "r", tokens=5, minimum=6, lease_seconds=60)
    assert [each.field for each in refused.value.violations] == ["minimum_tokens"]


def test_the_components_of_usage_are_disjoint_and_their_sum_is_charged() -> None:
    assert TokenUsage(1, 20, 300, 4_000).total == 4_321


def test_a_denial_names_every_full_limit_and_waits_for_the_last_of_their_windows() -> None:
    midnight, first = 15 * 3_600.0, 9 * 86_400 + 15 * 3_600 + 1e-6
    limits = [
        Limit("tenant:t", Window.DAY, "tokens", 100, 60, 30, midnight, is_full=True),
        Limit("user:u", Window.DAY, "tokens", 1_000, 0, 0, midnight, is_full=False),
        Limit("user:u", Window.MONTH, "tokens", 10, 5, 5, first, is_full=True),
        Limit("key:k", Window.MONTH, "micros", 10, 5, 5, first, is_full=False),
    ]
    error = denial(20, limits)
    assert [each.subject for each in error.violations] == ["tenant:t", "user:u"]
    assert error.violations[1].description == "10 tokens per month: 5 used, 5 held"
    assert error.retry_after_seconds == pytest.approx(first, abs=0.0011)
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds >= first
    assert error.metadata == {
        "subject": "user:u",
        "window": "month",
        "limit": "10",
        "used": "5",
        "held": "5",
        "wanted": "20",
        "unit": "tokens",
    }
