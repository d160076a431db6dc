"""What a language model says is believed to the letter of the schema or not at all, and only where it was asked."""

import json
from dataclasses import replace
from typing import Any

import pytest

from services.analytics.analyses.language_model import _verdict
from services.analytics.analyses.local_findings import local_findings, uncertain
from services.analytics.analyses.merging import merged
from services.analytics.analyses.model import Category, Sentiment, Stage
from tests.analytics.analyses.world import BAD_LIGHT
from tests.analytics.content.accuracy import transcript_of
from tests.house.fake_provider import VERDICT

FINDINGS = local_findings(transcript_of({"id": "c", "messages": [{"by": "user", "text": BAD_LIGHT}]}), ())


def said(**changes: Any) -> str:
    return json.dumps({**VERDICT, **changes})


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "null",
        "[]",
        "não sei",
        "```json\n{}\n```",
        said(sentiment="eufórico"),
        said(satisfaction="5"),
        said(satisfaction=6),
        said(main_topic=""),
        said(main_topic="x" * 81),
        said(topics=["x"] * 9),
        said(summary="x" * 601),
        said(surplus=1),
        json.dumps({name: value for name, value in VERDICT.items() if name != "category"}),
        said()[:-5],
    ],
)
def test_whatever_breaks_the_schema_is_junk(junk: str) -> None:
    assert _verdict(junk) is None


def test_it_decides_only_what_was_uncertain() -> None:
    assert not uncertain(FINDINGS)
    verdict = _verdict(said(sentiment="positivo", category="elogio"))
    assert verdict is not None
    found = merged(FINDINGS, verdict, {"category"})
    assert (found.category, found.sentiment) == (Category.PRAISE, Sentiment.NEGATIVE)
    assert found.made["category"].stage is Stage.LANGUAGE_MODEL
    assert found.main_topic == FINDINGS.main_topic


def test_a_local_guess_below_its_threshold_is_uncertain_and_what_a_person_said_is_not() -> None:
    doubt = replace(FINDINGS.made["sentiment"], stage=Stage.LOCAL_MODEL, confidence=0.4)
    assert uncertain(replace(FINDINGS, made={**FINDINGS.made, "sentiment": doubt})) == {"sentiment"}
    human = replace(doubt, stage=Stage.HUMAN)
    assert not uncertain(replace(FINDINGS, made={**FINDINGS.made, "sentiment": human}))
