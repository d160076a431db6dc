"""What is found without asking anybody, in long conversations and in what was written to be slow."""

from typing import Any

import pytest

from services.analytics.analyses.local_findings import local_findings
from services.analytics.analyses.model import Findings, Resolution, Sentiment
from tests.analytics.analyses.world import BAD_LIGHT, GOOD_SCHOOL
from tests.analytics.content.accuracy import transcript_of


def found(*said: str) -> Findings:
    """What is found in a conversation in which the person and an assistant take turns."""
    messages: list[dict[str, Any]] = [
        {"by": "assistant" if place % 2 else "user", "text": text} for place, text in enumerate(said)
    ]
    return local_findings(transcript_of({"id": "c", "messages": messages}), ())


def test_a_long_conversation_is_judged_by_how_it_ended() -> None:
    quarrel = [BAD_LIGHT, "Vou verificar."] * 50
    assert found(*quarrel).sentiment is Sentiment.NEGATIVE
    thanks = ["Voltou! Muito obrigada, adorei, excelente!", "De nada.", GOOD_SCHOOL] * 15
    assert found(*quarrel, *thanks).sentiment is Sentiment.POSITIVE


def test_whoever_closes_politely_after_an_answer_was_helped() -> None:
    assert found("Qual o prazo do IPTU?", "Dia 10.", "ok, obrigado").resolution is Resolution.RESOLVED
    assert found("Qual o prazo do IPTU?").resolution is Resolution.UNKNOWN
    assert found(BAD_LIGHT, "Aguarde.").resolution is Resolution.UNRESOLVED


@pytest.mark.timeout(200)
@pytest.mark.parametrize("text", ["a" * 300_000, "1 " * 150_000, "a.b+c-" * 50_000, "ç̃" * 100_000, "1" + " " * 300_000])
def test_what_was_written_to_be_slow_comes_to_an_end(text: str) -> None:
    findings = found(text, "Não entendi.", "oi")
    assert len(findings.summary) <= 600
    assert len(findings.keywords) <= 10
