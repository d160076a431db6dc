"""What a turn tells its reader, in this order: Accepted, Step*, Citation*, Delta*, Verification, Completed."""

from dataclasses import dataclass

from services.document_rag.assistants.model import Answer
from services.document_rag.assistants.outcome import Stored
from services.document_rag.assistants.steps import Step
from services.document_rag.assistants.verifier import Verified
from services.document_rag.model import Passage


@dataclass(frozen=True, slots=True)
class Accepted:
    """The question is stored and tokens are held."""

    conversation_id: str
    question_message_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that the answer may cite by its number."""

    number: int
    passage: Passage


@dataclass(frozen=True, slots=True)
class Verification:
    """What the passages bear out of the answer."""

    sentences: tuple[Verified, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """The answer is stored and charged."""

    stored: Stored
    answer: Answer


AnswerEvent = Accepted | Step | Citation | Verification | Completed
