"""How good a search and its answers are, as numbers; and whether they are as good as they were."""

import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.document_rag.assistants.extractive_provider import ExtractiveProvider
from services.document_rag.assistants.model import Budget, cited
from services.document_rag.assistants.prompt import Brief, build_prompt
from services.document_rag.assistants.providers import Delta, Sampling
from services.document_rag.assistants.verifier import Support, verify
from services.document_rag.assistants.wording import says_not_in_documents
from services.document_rag.model import Passage, SearchResult
from tests.eval.questions import Question

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.015  # below it a change is noise: of 82 questions one is 0.012
LOOKED_AT = 10
_BUDGET = Budget(passages=3000, history=0)

Find = Callable[[str], Awaitable[SearchResult]]
Answers = Callable[[Question, Passage], bool]
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Line:
    """One line of a table: what was scored, and its scores. `milliseconds` a question; 0 where nobody waits."""

    case: str
    scores: Scores
    milliseconds: float = 0.0


async def retrieval(case: str, find: Find, answers: Answers, questions: Sequence[Question]) -> Line:
    """Where the first passage that answers stands among ten; of questions that have an answer."""
    asked = [question for question in questions if question.has_answer]
    ranks: list[int] = []
    started = time.perf_counter()
    for question in asked:
        passages = (await find(question.text)).passages[:LOOKED_AT]
        ranks.append(next((rank for rank, each in enumerate(passages, start=1) if answers(question, each)), 0))
    seconds = time.perf_counter() - started
    scores = {f"recall@{most}": _share([1 <= rank <= most for rank in ranks]) for most in (1, 5, 10)}
    scores["MRR"] = sum(1 / rank for rank in ranks if rank) / len(ranks)
    print(f"{case}: recall@1 {scores['recall@1']:.3f}", file=sys.stderr, flush=True)  # a large set takes minutes
    return Line(case, scores, seconds / len(asked) * 1000)


async def answering(case: str, find: Find, answers: Answers, questions: Sequence[Question]) -> Line:
    """What the extractive provider makes of what was found.

    support: sentences that the verifier finds borne out. precision: citations of a passage that answers. answered: of
    questions with an answer, those whose answer cites such a passage. refused: of those without, those not answered.
    """
    supported: list[bool] = []
    precise: list[bool] = []
    answered: list[bool] = []
    refused: list[bool] = []
    for question in questions:
        found = await find(question.text)
        prompt = build_prompt(Brief(), question.text, [], found, _BUDGET)
        text = "".join(
            [
                piece.text
                async for piece in ExtractiveProvider().answer(prompt, Sampling("extractive", None, 800))
                if isinstance(piece, Delta)
            ]
        )
        is_refusal = says_not_in_documents(text)
        if not question.has_answer:
            refused.append(is_refusal)
            continue
        if not is_refusal:
            supported += [each.support is Support.SUPPORTED for each in verify(text, prompt.passages)]
        hits = [answers(question, passage) for _, passage in cited(text, prompt.passages)]
        precise += hits
        answered.append(any(hits))
    scores = {"support": supported, "precision": precise, "answered": answered, "refused": refused}
    return Line(case, {name: _share(each) for name, each in scores.items() if each})


def losses(name: str, lines: Sequence[Line]) -> list[str]:
    """What is worse than in the committed baseline of the set, as sentences; none where there is no baseline."""
    known: Mapping[str, Mapping[str, float]] = _baselines().get(name, {})
    return [
        f"{name}, {line.case}: {score} fell from {known[line.case][score]:.3f} to {now:.3f}"
        for line in lines
        if line.case in known
        for score, now in line.scores.items()
        if now < known[line.case].get(score, 0.0) - TOLERANCE
    ]


def keep_as_baseline(name: str, lines: Sequence[Line]) -> None:
    """From now on the set is compared with these scores."""
    kept = _baselines() | {name: {line.case: _rounded(line.scores) for line in lines}}
    BASELINE.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def publish(name: str, lines: Sequence[Line], directory: Path) -> None:
    """Prints the table, writes `<directory>/<name>.json`."""
    columns = list(dict.fromkeys(score for line in lines for score in line.scores))
    width = max(len(line.case) for line in lines) + 2
    print(f"{name:<{width}}" + "".join(f"{column:>11}" for column in columns) + f"{'ms':>8}")
    for line in lines:
        cells = (f"{line.scores[column]:>11.3f}" if column in line.scores else " " * 11 for column in columns)
        print(f"{line.case:<{width}}" + "".join(cells) + (f"{line.milliseconds:>8.1f}" if line.milliseconds else ""))
    print()
    directory.mkdir(parents=True, exist_ok=True)
    content = {line.case: {**_rounded(line.scores), "milliseconds": round(line.milliseconds, 2)} for line in lines}
    (directory / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _baselines() -> dict[str, Mapping[str, Mapping[str, float]]]:
    return dict(json.loads(BASELINE.read_text(encoding="utf-8"))) if BASELINE.exists() else {}


def _rounded(scores: Scores) -> dict[str, float]:
    return {name: round(score, 3) for name, score in scores.items()}


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)
