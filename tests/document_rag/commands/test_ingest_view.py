"""What prosa-ingest shows at a terminal, and that every message is there in both languages."""

import io
import string
from pathlib import Path

import pytest
from rich.console import Console

from services.document_rag.commands.chosen_files import ChosenFile
from services.document_rag.commands.ingest_view import TerminalView
from services.document_rag.commands.uploads import Outcome
from services.document_rag.commands.words import _WORDS, Words
from tests.house.waiting import wait_until

GOOD = ChosenFile(Path("/docs/[b]edital[/b].pdf"), "docs/[b]edital[/b].pdf", 100)
BAD = ChosenFile(Path("/docs/foto.pdf"), "docs/foto.pdf", 5)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_files_are_shown_on_their_way_and_summed_up_whatever_they_are_called(*, is_terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=160)
    outcomes = [
        Outcome(GOOD, "PENDING", "NEW", "id", message="waits for [b]vectors[/b]"),
        Outcome(BAD, "FAILED", error_reason="DOCUMENT_UNREADABLE", message="a picture"),
    ]
    with TerminalView(console, Words("pt"), 2) as view:
        view.stage(GOOD, "SENDING", 50, 100)
        view.stage(GOOD, "EMBEDDING", 3, 9)
        if is_terminal:  # the bars are drawn by a thread, ten times a second
            wait_until(lambda: "vetorizando" in screen.getvalue())
        for outcome in outcomes:
            view.ended(outcome)
    view.summary(outcomes)
    shown = screen.getvalue()
    assert "docs/foto.pdf: falhou: a picture (DOCUMENT_UNREADABLE)" in shown
    assert "docs/[b]edital[/b].pdf" in shown
    assert "waits for [b]vectors[/b]" in shown
    assert is_terminal or "vetorizando" not in shown
    assert "ainda não pesquisável" in shown


def test_every_message_has_the_same_places_in_both_languages() -> None:
    for name, texts in _WORDS.items():
        places = [[field for _, field, _, _ in string.Formatter().parse(text) if field is not None] for text in texts]
        assert places[0] == places[1], name
