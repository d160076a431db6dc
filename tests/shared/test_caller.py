"""Tokens: what is believed, what is not, and for how long."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import SecretStr

from shared import caller as caller_module
from shared.caller import Caller, NoCallerError, TokenSigner, TokenVerifier, acting_as, caller_or_none, current_caller
from shared.clock import ManualClock
from shared.config import CannotStartError
from shared.errors import Unauthenticated
from tests.house.signing import SigningKeys, new_signing_keys

SCOPES = {"conversations.read", "conversations.write"}


def signer(keys: SigningKeys, clock: ManualClock) -> TokenSigner:
    return TokenSigner(SecretStr(keys.private_pem), 60, clock)


def sign(keys: SigningKeys, clock: ManualClock) -> str:
    token, _ = signer(keys, clock).sign(key_id="k1", tenant_id="t1", user_id="u1", scopes=SCOPES)
    return token


def reason_of(verifier: TokenVerifier, token: str, *, subject: bool = False) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify_subject(token) if subject else verifier.verify(token)
    return caught.value.reason


def test_a_signed_token_names_its_caller(signing_keys: SigningKeys) -> None:
    clock = ManualClock()
    token, expires = signer(signing_keys, clock).sign(key_id="k1", tenant_id="t1", user_id="", scopes=SCOPES)
    caller = TokenVerifier(signing_keys.public_pem, clock).verify(token)
    assert caller == Caller("t1", "", "k1", frozenset(SCOPES), token, expires)
    assert caller.may("conversations.read")
    assert not caller.may("tenants.admin")
    assert abs(expires - clock.now().timestamp() - 60) < 0.001


def test_a_token_s_life_begins_when_its_key_was_asked_about(signing_keys: SigningKeys) -> None:
    clock = ManualClock()
    asked_at = clock.now().timestamp() - 1.5
    token, expires = signer(signing_keys, clock).sign(
        key_id="k1", tenant_id="t1", user_id="", scopes=SCOPES, issued_at=asked_at, lifetime_seconds=4.0
    )
    assert abs(expires - asked_at - 4.0) < 0.001
    assert TokenVerifier(signing_keys.public_pem, clock).verify(token).expires_at == expires


def test_a_token_of_four_seconds_is_refused_within_five_also_by_a_clock_that_is_behind(
    signing_keys: SigningKeys,
) -> None:
    clock = ManualClock()
    token, _ = TokenSigner(SecretStr(signing_keys.private_pem), 4.0, clock).sign(
        key_id="k1", tenant_id="t1", user_id="u1", scopes=SCOPES
    )
    behind = ManualClock(clock.now())
    behind.advance(-0.5)
    verifier = TokenVerifier(signing_keys.public_pem, behind)
    behind.advance(4.9)
    verifier.verify(token)
    behind.advance(0.101)  # tokens are told to the millisecond
    assert reason_of(verifier, token) == "CREDENTIALS_EXPIRED"


def test_a_token_is_never_shown_by_repr(signing_keys: SigningKeys) -> None:
    clock = ManualClock()
    token = sign(signing_keys, clock)
    assert token not in repr(TokenVerifier(signing_keys.public_pem, clock).verify(token))


def test_a_token_ends(signing_keys: SigningKeys) -> None:
    clock = ManualClock()
    verifier = TokenVerifier(signing_keys.public_pem, clock)
    token = sign(signing_keys, clock)
    verifier.verify(token)
    clock.advance(60.4)
    verifier.verify(token)  # two machines' clocks may differ by 0.5 s
    clock.advance(0.2)
    assert reason_of(verifier, token) == "CREDENTIALS_EXPIRED"


def test_a_subject_is_believed_for_fifteen_minutes_more(signing_keys: SigningKeys) -> None:
    clock = ManualClock()
    verifier = TokenVerifier(signing_keys.public_pem, clock)
    token = sign(signing_keys, clock)
    clock.advance(60 + 14 * 60)
    assert verifier.verify_subject(token).tenant_id == "t1"
    assert reason_of(verifier, token) == "CREDENTIALS_EXPIRED"
    clock.advance(61)
    assert reason_of(verifier, token, subject=True) == "CREDENTIALS_EXPIRED"


def good_claims() -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": "prosa",
        "aud": "prosa",
        "sub": "k1",
        "tenant": "t1",
        "user": "u1",
        "scopes": ["a"],
        "iat": now,
        "exp": now + 60,
        "jti": "1",
    }


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in good_claims().items() if name not in names}


@pytest.mark.parametrize(
    "claims",
    [
        without("exp"),
        without("iat"),
        without("aud"),
        without("iss"),
        without("sub"),
        without("tenant"),
        without("user"),
        without("scopes"),
        {**good_claims(), "iss": "somebody"},
        {**good_claims(), "aud": "somebody"},
        {**good_claims(), "aud": ["prosa", "somebody"]},
        {**good_claims(), "sub": ""},
        {**good_claims(), "sub": 7},
        {**good_claims(), "tenant": None},
        {**good_claims(), "tenant": ["t1"]},
        {**good_claims(), "scopes": "a b"},
        {**good_claims(), "scopes": [1]},
        {**good_claims(), "exp": "soon"},
        {**good_claims(), "exp": True},
        {**good_claims(), "iat": int(time.time()) + 3600},
        {**good_claims(), "nbf": int(time.time()) + 3600},
        {**good_claims(), "nbf": "later"},
    ],
    ids=lambda claims: json.dumps({k: v for k, v in claims.items() if k not in ("jti",)})[:60],
)
def test_claims_that_are_not_ours_are_refused(signing_keys: SigningKeys, claims: dict[str, Any]) -> None:
    key = load_pem_private_key(signing_keys.private_pem.encode(), None)
    token = jwt.encode(claims, key, algorithm="EdDSA")  # type: ignore[arg-type]  # it is an Ed25519 key
    assert reason_of(TokenVerifier(signing_keys.public_pem), token) == "CREDENTIALS_INVALID"


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def foreign_tokens(keys: SigningKeys) -> dict[str, str]:
    import hashlib
    import hmac

    claims = good_claims()
    own = load_pem_private_key(keys.private_pem.encode(), None)
    good = jwt.encode(claims, own, algorithm="EdDSA")  # type: ignore[arg-type]
    head, body, signature = good.split(".")
    forged_body = encoded({**claims, "tenant": "t2"})
    hs_head = encoded({"alg": "HS256", "typ": "JWT"})
    mac = hmac.new(keys.public_pem.encode(), f"{hs_head}.{body}".encode(), hashlib.sha256).digest()
    stranger = load_pem_private_key(new_signing_keys().private_pem.encode(), None)
    return {
        "nothing": "",
        "no token at all": "prosa",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.x",
        "alg none": jwt.encode(claims, "", algorithm="none"),
        "alg none, signature kept": f"{encoded({'alg': 'none'})}.{body}.{signature}",
        "alg None in capitals": f"{encoded({'alg': 'NONE'})}.{body}.",
        "HS256 with the public key": f"{hs_head}.{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}",
        "HS256 with another secret": jwt.encode(claims, "s" * 32, algorithm="HS256"),
        "RS256": jwt.encode(claims, rsa.generate_private_key(65537, 2048), algorithm="RS256"),
        "ES256": jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        "Ed448": jwt.encode(claims, ed448.Ed448PrivateKey.generate(), algorithm="EdDSA"),
        "another Ed25519 key": jwt.encode(claims, stranger, algorithm="EdDSA"),  # type: ignore[arg-type]
        "other claims under our signature": f"{head}.{forged_body}.{signature}",
        "signature cut": good[:-4],
        "signature empty": f"{head}.{body}.",
        "signature changed": f"{head}.{body}.{'A' * len(signature)}",
        "key in the header": jwt.encode(
            claims,
            stranger,  # type: ignore[arg-type]
            algorithm="EdDSA",
            headers={"jwk": {"kty": "OKP"}, "kid": "../../key"},
        ),
        "unknown crit": jwt.encode(claims, own, algorithm="EdDSA", headers={"crit": ["x"], "x": 1}),  # type: ignore[arg-type]
        "body is a list": f"{head}.{base64.urlsafe_b64encode(b'[]').decode()}.{signature}",
        "not ASCII": f"{head}.ção.{signature}",
    }


def test_every_foreign_token_gets_the_same_refusal(signing_keys: SigningKeys) -> None:
    verifier = TokenVerifier(signing_keys.public_pem)
    answers = {}
    for name, token in foreign_tokens(signing_keys).items():
        with pytest.raises(Unauthenticated) as caught:
            verifier.verify(token)
        answers[name] = (caught.value.reason, caught.value.message)
    assert set(answers.values()) == {("CREDENTIALS_INVALID", "the credentials are not valid")}


def test_verified_tokens_are_kept_within_bounds(signing_keys: SigningKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "VERIFIED_TOKENS_KEPT", 3)
    clock = ManualClock()
    verifier = TokenVerifier(signing_keys.public_pem, clock)
    tokens = [sign(signing_keys, clock) for _ in range(5)]
    assert [verifier.verify(token).key_id for token in tokens] == ["k1"] * 5
    assert len(verifier._verified) == 3
    first = verifier.verify(tokens[-1])
    assert verifier.verify(tokens[-1]) is first


def test_only_ed25519_keys_are_accepted() -> None:
    other = ed448.Ed448PrivateKey.generate()
    private = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for wrong in (private, public, "", "nonsense"):
        with pytest.raises(CannotStartError, match="Ed25519"):
            TokenSigner(SecretStr(wrong), 60)
        with pytest.raises(CannotStartError, match="PROSA_TOKEN_PUBLIC_KEY"):
            TokenVerifier(wrong)


def test_outside_of_a_call_there_is_no_caller() -> None:
    assert caller_or_none() is None
    with pytest.raises(NoCallerError):
        current_caller()


def test_acting_as_somebody_ends_with_the_block() -> None:
    outer = Caller("t1", "u1", "k1", frozenset(), "", 0.0)
    inner = Caller("t2", "u2", "k2", frozenset(), "", 0.0)
    with acting_as(outer):
        with acting_as(inner):
            assert current_caller() is inner
        assert current_caller() is outer
    assert caller_or_none() is None


def test_a_signing_key_with_a_password_is_told_in_words() -> None:
    locked = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(CannotStartError, match="without a password"):
        TokenSigner(SecretStr(locked.decode()))


def test_while_the_signing_key_is_changed_both_verify(signing_keys: SigningKeys) -> None:
    following = new_signing_keys()
    both = TokenVerifier(f"{signing_keys.public_pem.strip()}\n{following.public_pem}")
    for keys in (signing_keys, following):
        token, _ = TokenSigner(SecretStr(keys.private_pem)).sign(key_id="k", tenant_id="t", user_id="u", scopes=[])
        assert both.verify(token).key_id == "k"
    foreign, _ = TokenSigner(SecretStr(new_signing_keys().private_pem)).sign(
        key_id="k", tenant_id="t", user_id="u", scopes=[]
    )
    with pytest.raises(Unauthenticated):
        both.verify(foreign)
    with pytest.raises(CannotStartError, match="PROSA_TOKEN_PUBLIC_KEY"):
        TokenVerifier(signing_keys.public_pem + "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
