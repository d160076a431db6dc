"""`make eval`: how well questions find their passages and get their answers, for every mode and embedder available.

Without a set: the questions of the demo documents, through the real ingestion. With one: any file in SQuAD's format,
each question must find its own paragraph among all, and be told that it is not there when it is withheld. Fails when
something is worse than in `baseline.json`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from deploy.local.engine import running_engine
from deploy.local.engines import Postgres
from deploy.local.ports import free_port
from services.document_rag.__main__ import MIGRATIONS, SCHEMA, Documents, open_documents
from services.document_rag.config import Config
from services.document_rag.model import Passage, SearchMode, SearchResult
from shared.postgres import migrate
from shared.server import run
from tests.eval.corpus import answers_of, index_paragraphs, upload_demo
from tests.eval.questions import Question, demo_questions, sampled, squad, variants
from tests.eval.scores import Answers, Find, Line, answering, keep_as_baseline, losses, publish, retrieval

DIRECTORY = Path(".prosa") / "eval"
TENANT = "eval"
SHOWN = 8  # passages that an answer is made of

EmbedderName = Literal["hashed", "openai"]


@dataclass(frozen=True)
class Scored:
    """The half of the service that is scored, under the name of its embedder."""

    embedder: EmbedderName
    documents: Documents

    def finding(self, mode: SearchMode, *, top_k: int = 10, rerank: bool = False) -> Find:
        """Its search."""

        async def find(query: str) -> SearchResult:
            return await self.documents.index.search(TENANT, query, top_k=top_k, mode=mode, rerank=rerank)

        return find


def main() -> None:
    """Scores, prints, compares."""
    parser = argparse.ArgumentParser(prog="make eval", description=__doc__)
    parser.add_argument("--set", type=Path, help="a file in SQuAD's format; without it the demo documents")
    parser.add_argument("--keep", action="store_true", help="make these scores the baseline of the set")
    said = parser.parse_args()
    name = said.set.stem if said.set else "demo"
    lines = _scored(said.set)
    publish(name, lines, DIRECTORY)
    if said.keep:
        keep_as_baseline(name, lines)
    worse = losses(name, lines)
    print("\n".join(worse) if worse else "nothing is worse than the baseline")
    sys.exit(1 if worse else 0)


def _scored(path: Path | None) -> list[Line]:
    lines: list[Line] = []
    for embedder in _embedders():
        with _database() as url, tempfile.TemporaryDirectory(prefix="prosa-eval-") as originals:
            config = Config(database_url=SecretStr(url), originals_url=originals, embedder=embedder)

            async def score(config: Config = config) -> None:
                await migrate(config.database_url, schema=SCHEMA, directory=MIGRATIONS)
                async with open_documents(config) as documents:
                    scored = Scored(config.embedder, documents)
                    lines.extend(await (_squad(scored, path) if path else _demo(scored)))

            run(score)
    return lines


def _embedders() -> Sequence[EmbedderName]:
    return ["hashed", "openai"] if Config().openai_api_key.get_secret_value() else ["hashed"]


@contextmanager
def _database() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="prosa-eval-") as directory:
        Path(directory).chmod(0o755)
        engine = Postgres(Path(directory) / "postgres", free_port())
        with running_engine(engine):
            yield engine.url()


async def _demo(scored: Scored) -> list[Line]:
    answers = partial(answers_of, await upload_demo(scored.documents, TENANT))
    questions = demo_questions()
    lines = await _retrieval(scored, answers, questions)
    for mode in SearchMode:
        case = f"answers, {scored.embedder}, {mode.value}"
        lines.append(await answering(case, scored.finding(mode, top_k=SHOWN), answers, questions))
    return lines


async def _squad(scored: Scored, path: Path) -> list[Line]:
    paragraphs, questions = squad(path)
    pool, embedder = scored.documents.pool, scored.documents.embedder
    numbers = await index_paragraphs(pool, TENANT, embedder, paragraphs)

    def answers(question: Question, passage: Passage) -> bool:
        return numbers[passage.document_id] == question.document

    asked = sampled(questions)
    lines = await _retrieval(scored, answers, asked)
    find = scored.finding(SearchMode.HYBRID, top_k=SHOWN + 1)
    case = f"answers, {scored.embedder}, hybrid"
    lines.append(await answering(case, _shown(find), answers, asked))
    own = {each.text: each.document for each in asked}
    withheld = _shown(find, lambda query, passage: numbers[passage.document_id] == own[query])
    lines.append(await answering(f"{case}, withheld", withheld, answers, [Question(each.text) for each in asked]))
    return lines


def _shown(find: Find, is_withheld: Callable[[str, Passage], bool] = lambda _query, _passage: False) -> Find:
    """The same search, as if what is withheld were not in the library; SHOWN passages of it."""

    async def shown(query: str) -> SearchResult:
        found = await find(query)
        left = [each for each in found.passages if not is_withheld(query, each)]
        return replace(found, passages=tuple(left[:SHOWN]))

    return shown


async def _retrieval(scored: Scored, answers: Answers, questions: Sequence[Question]) -> list[Line]:
    lines = []
    for kind, asked in variants(questions).items():
        for mode in SearchMode:
            case = f"{scored.embedder}, {mode.value}, {kind}"
            lines.append(await retrieval(case, scored.finding(mode), answers, asked))
    for mode in (SearchMode.VECTOR, SearchMode.HYBRID):
        case = f"{scored.embedder}, {mode.value}, reranked"
        lines.append(await retrieval(case, scored.finding(mode, rerank=True), answers, questions))
    return lines


if __name__ == "__main__":
    main()
