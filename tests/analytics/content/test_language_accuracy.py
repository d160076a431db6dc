"""Whoever has a model at hand measures it with one command: the fake one is as often right as its one answer is."""

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from services.analytics.config import Config
from tests.analytics.content.accuracy import held_apart_set, measured
from tests.analytics.content.language_accuracy import ALONE, AT_ONCE, LAST_STAGE
from tests.bench.content import language_rows

if TYPE_CHECKING:
    from tests.house.fake_provider import FakeProvider

FEW = 10 * AT_ONCE


def asking(provider: "FakeProvider", model: str) -> Config:
    return Config(classification_model=model, openai_base_url=provider.base_url, openai_api_key=SecretStr("fake"))


def test_the_language_model_is_measured_alone_and_as_the_last_stage(provider: "FakeProvider") -> None:
    before = len(provider.answered)
    examples = held_apart_set()[:FEW]
    rows = {row.case.split(";")[0]: row for row in language_rows(asking(provider, "fake-verdict"), examples)}
    assert len(provider.answered) - before == FEW
    expected = 100 * sum(example["sentiment"] == "negativo" for example in examples) / FEW
    assert rows[f"sentiment: {ALONE}"].ours == pytest.approx(expected)
    expected = 100 * sum(example["topic"] == "outro" for example in examples) / FEW
    assert rows[f"main_topic: {ALONE}"].ours == pytest.approx(expected)
    assert rows[f"sentiment: {LAST_STAGE}"].ours > rows[f"sentiment: {ALONE}"].ours
    assert {row.case.split(":")[0] for row in rows.values()} == {"sentiment", "main_topic", "category", "resolution"}


@pytest.mark.parametrize("model", ["fake-verdict-odd", "fake-error"])
def test_what_is_junk_or_fails_is_wrong_and_leaves_the_stages_before_as_they_are(
    provider: "FakeProvider", model: str
) -> None:
    rows = {row.case.split(";")[0]: row.ours for row in language_rows(asking(provider, model), held_apart_set())}
    assert rows[f"category: {ALONE}"] == 0
    local = {each.field: each.of_all for each in measured() if each.stage in ("rules, then local model",)}
    assert {field: rows[f"{field}: {LAST_STAGE}"] for field in ("sentiment", "category")} == {
        field: pytest.approx(local[field]) for field in ("sentiment", "category")
    }
    assert rows[f"main_topic: {LAST_STAGE}"] == pytest.approx(
        next(each.of_all for each in measured() if each.stage == "main topic by its rule")
    )


def test_without_a_model_there_is_nothing_to_measure() -> None:
    assert language_rows(Config(), held_apart_set()) == []
