"""Accept and Accept-Language: weights, order, what is not understood."""

import pytest

from gateway.preferences import preferred_language, preferred_type

EVENTS = "text/event-stream"
FILE = "application/octet-stream"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", FILE),
        ("*/*", FILE),
        (EVENTS, EVENTS),
        ("Text/Event-Stream", EVENTS),
        (f"{EVENTS}, */*", EVENTS),
        (f"*/*, {EVENTS}", FILE),
        (f"{EVENTS};q=0.1, */*;q=0.2", FILE),
        (f"{EVENTS};q=0.2, */*;q=0.1", EVENTS),
        (f"{EVENTS};q=0", FILE),
        ("text/*", FILE),
        (f"{EVENTS}; charset=utf-8; q=0.5", EVENTS),
        (f"{EVENTS};q=2", FILE),
        (",;,=;q", FILE),
    ],
)
def test_another_type_is_answered_with_to_who_names_it(accept: str, chosen: str) -> None:
    assert preferred_type(accept, FILE, EVENTS) == chosen


@pytest.mark.parametrize(
    ("accept_language", "chosen"),
    [
        ("", "pt-BR"),
        ("pt", "pt-BR"),
        ("pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", "pt-BR"),
        ("en-US,en;q=0.9,pt-BR;q=0.8", "en"),
        ("en", "en"),
        ("EN-gb", "en"),
        ("pt-PT, en;q=0.5", "pt-BR"),
        ("pt;q=0.5, en;q=0.8", "en"),
        ("en, pt", "en"),
        ("pt, en", "pt-BR"),
        ("en;q=0.1, en-US;q=0.9, pt;q=0.5", "en"),
        ("de, fr;q=0.9", "pt-BR"),
        ("de, en;q=0.1", "en"),
        ("*", "pt-BR"),
        ("pt;q=0, *", "en"),
        ("en;q=0", "pt-BR"),
        ("en;q=x, pt;q=0.1", "pt-BR"),
    ],
)
def test_a_language_is_that_wished_for_most_of_any_country(accept_language: str, chosen: str) -> None:
    assert preferred_language(accept_language, ["pt-BR", "en"]) == chosen
