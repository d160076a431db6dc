"""Page tokens belong to one query of one tenant."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.caller import Caller, acting_as
from shared.errors import InvalidArgument
from shared.paging import page_position, page_size, page_token

QUERY: dict[str, object] = {"user_id": "u1", "status": "open", "tags": ["a", "b"]}


def tenant(name: str) -> Caller:
    return Caller(name, "u1", "k1", frozenset(), "", 0.0)


def refusal(token: str, query: dict[str, object]) -> str:
    with pytest.raises(InvalidArgument) as caught:
        page_position(token, query)
    assert caught.value.violations[0].field == "page_token"
    return caught.value.reason


def test_a_token_gives_its_position_back() -> None:
    with acting_as(tenant("t1")):
        token = page_token(QUERY, {"seq": 41, "id": "ção"})
        assert page_position(token, dict(reversed(QUERY.items()))) == {"seq": 41, "id": "ção"}


def test_the_first_page_has_no_position() -> None:
    with acting_as(tenant("t1")):
        assert page_position("", QUERY) is None


def test_another_query_is_a_mismatch() -> None:
    with acting_as(tenant("t1")):
        token = page_token(QUERY, {"seq": 41})
        assert refusal(token, {**QUERY, "status": "closed"}) == "PAGE_TOKEN_MISMATCH"


def test_another_tenant_is_a_mismatch() -> None:
    with acting_as(tenant("t1")):
        token = page_token(QUERY, {"seq": 41})
    with acting_as(tenant("t2")):
        assert refusal(token, QUERY) == "PAGE_TOKEN_MISMATCH"


def test_a_position_must_be_an_object() -> None:
    with acting_as(tenant("t1")):
        token = page_token(QUERY, {})
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        changed = base64.urlsafe_b64encode(json.dumps({**content, "p": 7}).encode()).decode()
        assert refusal(changed, QUERY) == "PAGE_TOKEN_INVALID"


@given(st.text(min_size=1))
def test_any_text_that_is_no_token_is_refused(text: str) -> None:
    with acting_as(tenant("t1")):
        assert refusal(text, QUERY) == "PAGE_TOKEN_INVALID"


@given(st.binary(min_size=1))
def test_any_bytes_that_are_no_token_are_refused(data: bytes) -> None:
    with acting_as(tenant("t1")):
        assert refusal(base64.urlsafe_b64encode(data).decode(), QUERY) == "PAGE_TOKEN_INVALID"


def test_a_page_size_has_a_default_and_a_maximum() -> None:
    assert page_size(0) == 50
    assert page_size(7) == 7
    assert page_size(5000) == 1000
    assert page_size(0, default=10, maximum=20) == 10
    with pytest.raises(InvalidArgument):
        page_size(-1)
