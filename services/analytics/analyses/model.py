"""What an analysis is, who made which of its findings, and what a tenant allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from services.analytics.content.topics import FoundTopic
from shared.errors import FailedPrecondition


class Trigger(StrEnum):
    """Why an analysis was made."""

    FINALIZED = "finalized"
    IDLE = "idle"
    REQUESTED = "requested"
    CORRECTED = "corrected"


class Category(StrEnum):
    """What a person wanted, in the terms of Brazilian ombudsmen's offices."""

    INFORMATION = "informacao"
    REQUEST = "solicitacao"
    COMPLAINT = "reclamacao"
    REPORT = "denuncia"
    SUGGESTION = "sugestao"
    PRAISE = "elogio"
    OTHER = "outro"


class Sentiment(StrEnum):
    """How a person felt at the end."""

    POSITIVE = "positivo"
    NEUTRAL = "neutro"
    NEGATIVE = "negativo"


class Resolution(StrEnum):
    """Whether a person was helped."""

    RESOLVED = "resolvido"
    UNRESOLVED = "nao_resolvido"
    UNKNOWN = "desconhecido"


class Stage(IntEnum):
    """Who or what made a finding: the stages of the cascade in their order."""

    HUMAN = 1
    EXAMPLES = 2
    RULES = 3
    LOCAL_MODEL = 4
    LANGUAGE_MODEL = 5


class Missed(StrEnum):
    """Why the language model had no say although it should have had one."""

    NO = ""
    OFF = "off"
    CAP = "cap"
    QUOTA = "quota"
    FAILED = "failed"
    JUNK = "junk"


class Step(StrEnum):
    """What is still to be done about an analysis that is kept: each is safe to repeat."""

    CHARGE = "charge"
    COUNT = "count"
    LINK = "link"
    FEEDBACK = "feedback"
    LEARN = "learn"


ISSUES = ("atraso", "cobranca", "defeito", "atendimento", "acesso", "informacao", "servico", "outro")
CORRECTABLE = (
    "main_topic",
    "category",
    "sentiment",
    "satisfaction",
    "resolution",
    "issue_category",
    "summary",
)
# What a conversation like a corrected one is taken for; the rest is true of the one only.
EXEMPLARY = ("main_topic", "category", "sentiment")
MAX_SUMMARY_CHARACTERS = 600
MAX_TOPIC_CHARACTERS = 80


class NothingToAnalyse(FailedPrecondition):
    """No person has said anything in the conversation."""

    reason = "NOTHING_TO_ANALYSE"

    def __init__(self) -> None:
        super().__init__("no person has said anything in the conversation")


class AnalysisSuperseded(FailedPrecondition):
    """There is a newer version."""

    reason = "ANALYSIS_SUPERSEDED"

    def __init__(self, newest: int) -> None:
        super().__init__(f"version {newest} is newer", metadata={"newest_version": str(newest)})


@dataclass(frozen=True, slots=True)
class Utterance:
    """What was said, and when; `rating` is the feedback on it (0: none), by a person unless it was generated."""

    message_id: str
    seq: int
    by_user: bool
    text: str
    time: datetime
    rating: int = 0
    generated_rating: bool = False


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation as far as it is read, oldest message first, and whose it is."""

    tenant_id: str
    conversation_id: str
    utterances: Sequence[Utterance]
    user_id: str = ""
    assistant_id: str = ""
    team_id: str = ""
    channel: str = ""
    finalized: bool = False

    @property
    def asked(self) -> list[str]:
        """What the person said."""
        return [each.text for each in self.utterances if each.by_user and each.text.strip()]

    @property
    def last(self) -> Utterance:
        """The last message."""
        return self.utterances[-1]

    @property
    def who(self) -> str:
        """The person, as far as people are told apart: an anonymous one is known by the conversation only."""
        return self.user_id or f"conversation:{self.conversation_id}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding's stage and how certain it was, from 0 to 1."""

    stage: Stage
    confidence: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What the language model used for an analysis. Token components are disjoint."""

    model: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    provider_counted: bool = True
    reservation_id: str = ""

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.input_tokens + self.cached_input_tokens + self.output_tokens + self.reasoning_tokens


@dataclass(frozen=True, slots=True)
class MessageContent:
    """What one message of a person says by itself; `topic` is "" where that cannot be told."""

    message_id: str
    seq: int
    topic: str
    topic_confidence: float
    sentiment: str
    sentiment_confidence: float
    keywords: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a conversation was about and how it went; `made` tells by field who said so."""

    category: Category
    main_topic: str
    topics: tuple[FoundTopic, ...]
    keywords: tuple[str, ...]
    sentiment: Sentiment
    satisfaction: int
    resolution: Resolution
    issue_category: str
    summary: str
    made: Mapping[str, Finding]
    messages: tuple[MessageContent, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """One version of what is known about a conversation up to one of its messages."""

    analysis_id: str
    tenant_id: str
    conversation_id: str
    version: int
    newest: bool
    trigger: Trigger
    create_time: datetime
    last_seq: int
    last_time: datetime
    findings: Findings
    who: str
    user_id: str = ""
    assistant_id: str = ""
    team_id: str = ""
    channel: str = ""
    spent: Spent = field(default_factory=Spent)
    missed: Missed = Missed.NO
    corrected_by: str = ""
    corrected_fields: tuple[str, ...] = ()
    fingerprint: str = ""
    feedback_on: str = ""
    pending: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """When a tenant analyses, what it may spend, and below how many people a group is not shown."""

    automatic: bool = True
    language_model: bool = False
    daily_token_cap: int = 100_000
    idle_timeout: timedelta = timedelta(minutes=30)
    k_anonymity: int = 5
    automatic_feedback: bool = True


@dataclass(frozen=True, slots=True)
class TopicSums:
    """A topic of a tenant and the conversations whose main topic it is."""

    name: str
    aliases: tuple[str, ...]
    conversations: int
    users: int
    positive: int
    neutral: int
    negative: int
