"""The path grammar: what it reads, what it refuses, which template wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http_rule import (
    TemplateError,
    Variable,
    Wildcard,
    conflict,
    matches,
    parse,
    precedence,
    split_path,
)

ONE, REST = Wildcard.ONE, Wildcard.REST


@pytest.mark.parametrize(
    ("text", "segments", "variables", "verb"),
    [
        ("/v1/conversations", ("v1", "conversations"), (), ""),
        ("/v1/x/{id}", ("v1", "x", ONE), (Variable("id", 2, 3),), ""),
        ("/v1/x/{id}:ask", ("v1", "x", ONE), (Variable("id", 2, 3),), "ask"),
        ("/v1/x:upload", ("v1", "x"), (), "upload"),
        ("/v1/{name=a/*/b/*}", ("v1", "a", ONE, "b", ONE), (Variable("name", 1, 5),), ""),
        ("/v1/{name=a/**}:go", ("v1", "a", REST), (Variable("name", 1, None),), "go"),
        ("/v1/{a.b.c}/{d}", ("v1", ONE, ONE), (Variable("a.b.c", 1, 2), Variable("d", 2, 3)), ""),
        ("/*/**", (ONE, REST), (), ""),
    ],
)
def test_templates_are_read(text: str, segments: object, variables: object, verb: str) -> None:
    template = parse(text)
    assert (template.segments, template.variables, template.verb) == (segments, variables, verb)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1/x",
        "/",
        "//x",
        "/v1/",
        "/v1/{",
        "/v1/{}",
        "/v1/{id",
        "/v1/{1id}",
        "/v1/{id=}",
        "/v1/{a={b}}",
        "/v1/{id}x",
        "/v1/x:",
        "/v1/x:a:b",
        "/v1/**/x",
        "/v1/{a}/{a}",
        "/v1/a b",
        "/v1/x?y",
    ],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "path", "bound"),
    [
        ("/v1/x/{id}", "/v1/x/c42", {"id": "c42"}),
        ("/v1/x/{id}", "/v1/x/a%2Fb%20%C3%A9", {"id": "a/b é"}),
        ("/v1/x/{id}", "/v1/x/a:b", {"id": "a:b"}),
        ("/v1/x/{id}", "/v1/x/", None),
        ("/v1/x/{id}", "/v1/x", None),
        ("/v1/x/{id}", "/v1/x/a/b", None),
        ("/v1/x/{id}", "/v1/X/a", None),
        ("/v1/x/{id}:ask", "/v1/x/c42:ask", {"id": "c42"}),
        ("/v1/x/{id}:ask", "/v1/x/c:42:ask", {"id": "c:42"}),
        ("/v1/x/{id}:ask", "/v1/x/c42", None),
        ("/v1/x/{id}:ask", "/v1/x/:ask", None),
        ("/v1/x:upload", "/v1/x:upload", {}),
        ("/v1/{name=a/*/b/*}", "/v1/a/1/b/2", {"name": "a/1/b/2"}),
        ("/v1/{name=a/*/b/*}", "/v1/a/1%2F2/b/%61", {"name": "a/1%2F2/b/a"}),
        ("/v1/{name=a/*/b/*}", "/v1/a/1/c/2", None),
        ("/v1/{name=**}", "/v1/a/b/c", {"name": "a/b/c"}),
        ("/v1/{name=a/**}", "/v1/a", {"name": "a"}),
    ],
)
def test_paths_are_matched_and_bound(text: str, path: str, bound: dict[str, str] | None) -> None:
    template = parse(text)
    segments = matches(template, split_path(path))
    assert (None if segments is None else template.bind(segments)) == bound


def test_bytes_that_are_no_utf8_are_refused() -> None:
    template = parse("/v1/{id}")
    with pytest.raises(UnicodeDecodeError):
        template.bind(["v1", "%ff"])


def test_the_template_that_says_more_goes_first() -> None:
    texts = ["/v1/**", "/v1/x/**", "/v1/{id}", "/v1/x", "/v1/{id}:ask", "/v1/x:ask"]
    ordered = sorted((parse(text) for text in texts), key=precedence)
    assert [template.text for template in ordered] == [
        "/v1/x:ask",
        "/v1/{id}:ask",
        "/v1/x",
        "/v1/x/**",
        "/v1/{id}",
        "/v1/**",
    ]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/v1/x/{id}", "/v1/x/{name}", True),
        ("/v1/x/{id}", "/v1/x/*", True),
        ("/v1/{a=x/*}", "/v1/x/{b}", True),
        ("/v1/x/{id}", "/v1/x/{id}:ask", False),
        ("/v1/x/{id}", "/v1/y/{id}", False),
        ("/v1/x/{id}", "/v1/x/me", False),
    ],
)
def test_templates_for_the_same_paths_are_a_conflict(one: str, other: str, *, expected: bool) -> None:
    assert conflict(parse(one), parse(other)) is expected


@given(st.text(alphabet="/v1x{}=*:.,%a_", max_size=24))
def test_any_text_is_a_template_or_a_template_error(text: str) -> None:
    try:
        template = parse(text)
    except TemplateError:
        return
    # A template covers the path that its own segments spell.
    spelt = [segment if isinstance(segment, str) else "s" for segment in template.segments]
    if template.verb:
        spelt[-1] += f":{template.verb}"
    segments = matches(template, spelt)
    assert segments is not None
    if "%" not in text:
        assert set(template.bind(segments)) == {variable.field_path for variable in template.variables}


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_any_value_survives_its_encoding(values: list[str]) -> None:
    from urllib.parse import quote

    text = "/v1/" + "/".join(f"{{f{index}}}" for index in range(len(values)))
    path = "/v1/" + "/".join(quote(value.encode("utf-8", "ignore") or b"x", safe="") for value in values)
    template = parse(text)
    segments = matches(template, split_path(path))
    assert segments is not None
    expected = [(value.encode("utf-8", "ignore") or b"x").decode() for value in values]
    assert list(template.bind(segments).values()) == expected
