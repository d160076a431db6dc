"""An answer as a message keeps it."""

import json
from dataclasses import replace

from google.protobuf.json_format import MessageToDict

from services.chat_store.limits import MAX_METADATA_BYTES
from services.document_rag.assistants.kept_answer import message_of, outcome_of
from services.document_rag.assistants.model import Answer, FinishReason, TokenCount, UsageSource
from services.document_rag.assistants.outcome import Outcome
from services.document_rag.assistants.steps import Step, StepKind, StepRole, StepState
from services.document_rag.assistants.team_model import MOST_MEMBERS
from services.document_rag.assistants.verifier import MOST_CITATIONS, MOST_SENTENCES, Support, Verified, verify
from services.document_rag.search.chunk_model import MAX_TEXT_BYTES
from shared.validation import violations_of
from tests.document_rag.passages import passage

ANSWER = Answer("Em março [1].", FinishReason.STOP, TokenCount(9, 1, 3, 2), UsageSource.PROVIDER, 7, "m", 5, 2)


def outcome(text: str = "Achei.", sentences: int = 1, steps: int = 1) -> Outcome:
    verified = Verified(100_000, 100_200, Support.UNSUPPORTED, tuple(range(93, 101)))
    step = Step(
        1,
        StepRole.MEMBER,
        StepKind.ANSWER,
        StepState.FINISHED,
        assistant_id="01a1feb7-76ca-722e-890b-9d2856c13523",
        display_name=text[:200],
        text=text,
        model="m",
        tokens=TokenCount(100_000, 0, 100_000, 0),
        usage_source=UsageSource.ESTIMATED,
        cost_micros=123,
        latency_ms=45_678,
        reservation_id="01a1feb7-76ca-722e-890b-9d2856c13523",
    )
    kept = tuple(replace(step, number=number) for number in range(1, steps + 1))
    return Outcome(
        ANSWER, "a", "r", ((1, passage("Trecho.")),), rag=True, verification=(verified,) * sentences, steps=kept
    )


def test_what_is_kept_comes_back() -> None:
    kept = outcome()
    assert outcome_of(message_of(kept, "id", "team"), ANSWER.text) == kept


def test_the_longest_turn_of_the_largest_team_fits_into_a_message() -> None:
    """Letters that JSON writes with six bytes each, as many sentences and steps as there can be."""
    largest = outcome("ção\n" * 10_000, MOST_SENTENCES, MOST_MEMBERS + 2)
    metadata = MessageToDict(message_of(largest, "id", "team").metadata)
    assert len(json.dumps(metadata, separators=(",", ":"))) <= MAX_METADATA_BYTES
    assert metadata["steps"][0]["text"].startswith("ção")


def test_a_sentence_is_kept_with_no_more_citations_than_there_is_room_for() -> None:
    passages = [passage(f"O prazo é de 15 dias, artigo {number}.") for number in range(50)]
    marks = "".join(f"[{number}]" for number in range(1, 51))
    (sentence,) = verify(f"O prazo é de 15 dias {marks}.", passages)
    assert sentence.citations == tuple(range(1, MOST_CITATIONS + 1))


def test_an_answer_that_cites_the_longest_chunk_a_program_may_push_can_be_kept() -> None:
    longest = passage("ç" * (MAX_TEXT_BYTES // 2))
    kept = message_of(replace(outcome(), references=((1, longest),)), "id", "")
    assert not violations_of(kept)
    assert longest.text.startswith(kept.references[0].quote)
    assert len(kept.references[0].quote) > 8000
