"""A conversation is analysed: read, judged by the cascade, kept as a version, then charged, counted and linked.

What is kept says what is still to be done about it, and each of these steps is safe to repeat: whoever is killed
anywhere in between leaves an analysis that another process finishes, and nothing is charged, counted or linked twice.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from services.analytics.analyses.analysis_store import AnalysisStore, VersionTakenError, race_lost
from services.analytics.analyses.budget import Budget
from services.analytics.analyses.conversations import Conversations
from services.analytics.analyses.examples import Example, digests_of
from services.analytics.analyses.language_model import (
    LanguageModel,
    LanguageModelFailedError,
    Reply,
    worst_case_tokens,
)
from services.analytics.analyses.local_findings import local_findings, uncertain
from services.analytics.analyses.merging import merged, with_corrections
from services.analytics.analyses.model import (
    EXEMPLARY,
    Analysis,
    Findings,
    Missed,
    NothingToAnalyse,
    Sentiment,
    Settings,
    Spent,
    Step,
    Transcript,
    Trigger,
)
from services.analytics.analyses.statement import statement_of
from services.analytics.rollups.statements import StatementStore
from shared.errors import NotFound, ServiceError
from shared.identifiers import derived_id, new_id
from shared.telemetry import get_logger

_log = get_logger()

_RACES = 5
_PUT_OFF = timedelta(minutes=10)
_UNFINISHED_AT_ONCE = 100


class Analyses:
    """Analyses conversations, each version once."""

    def __init__(
        self,
        store: AnalysisStore,
        conversations: Conversations,
        statements: StatementStore,
        budget: Budget,
        language_model: LanguageModel | None,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._conversations = conversations
        self._statements = statements
        self._budget = budget
        self._language_model = language_model
        self._now = now

    async def analyze(
        self, tenant_id: str, conversation_id: str, trigger: Trigger, *, again: bool = False, request_id: str = ""
    ) -> Analysis:
        """The analysis of the conversation as far as it has come: the one there is, or else a new version.

        NotFound, NothingToAnalyse, RequestIdReused; Unavailable and Conflict pass by themselves.
        """
        fingerprint = hashlib.sha256(f"{conversation_id}|{again}".encode()).hexdigest()
        if request_id:
            known = await self._store.asked_before(tenant_id, request_id, fingerprint)
            if known is not None:
                return await self.finish(known)
        transcript = await self._conversations.transcript(tenant_id, conversation_id)
        if not transcript.asked:
            raise NothingToAnalyse
        analysis = await self._version(transcript, trigger, again=again, request_id=request_id)
        if request_id:
            await self._store.remember(analysis, request_id, fingerprint, self._now())
        return await self.finish(analysis)

    async def automatically(self, tenant_id: str, conversation_id: str, trigger: Trigger) -> Analysis | None:
        """As `analyze`, for those whom nobody asked; None where the tenant does not want it, or nothing was said."""
        if not (await self._store.settings(tenant_id)).automatic:
            return None
        try:
            return await self.analyze(tenant_id, conversation_id, trigger)
        except NothingToAnalyse:
            return None

    async def finish(self, analysis: Analysis) -> Analysis:
        """Does what is still to be done about a kept analysis."""
        for step in analysis.pending:
            match step:
                case Step.CHARGE:
                    await self._budget.charge(analysis)
                case Step.COUNT:
                    await self._statements.commit([statement_of(analysis)])
                case Step.LINK:
                    await self._conversations.link(analysis)
                case Step.FEEDBACK:
                    await self._conversations.leave_feedback(analysis)
                case Step.LEARN:
                    await self._learn(analysis)
            await self._store.done(analysis.analysis_id, step)
        return analysis

    async def finish_abandoned(self) -> None:
        """Finishes what processes that were killed have left; what cannot be finished now is put off, alone."""
        for analysis in await self._store.unfinished(self._now(), _UNFINISHED_AT_ONCE):
            try:
                await self.finish(analysis)
            except ServiceError as error:
                _log.warning("analysis_not_finished", reason=error.reason)
                await self._store.put_off(analysis.analysis_id, self._now() + _PUT_OFF)

    async def _learn(self, analysis: Analysis) -> None:
        """Keeps what a person said as an example, unless it was corrected again or there are no words to keep it by."""
        newest = await self._store.newest(analysis.tenant_id, analysis.conversation_id)
        fields = [name for name in analysis.corrected_fields if name in EXEMPLARY]
        if not fields or newest is None or newest.version > analysis.version:
            return
        try:
            transcript = await self._conversations.transcript(analysis.tenant_id, analysis.conversation_id)
        except NotFound:
            return
        example = Example(
            digests_of(transcript.asked), {name: str(getattr(analysis.findings, name)) for name in fields}
        )
        await self._store.learn(analysis.tenant_id, analysis.conversation_id, example, self._now())

    async def _version(self, transcript: Transcript, trigger: Trigger, *, again: bool, request_id: str) -> Analysis:
        for _ in range(_RACES):
            newest = await self._store.newest(transcript.tenant_id, transcript.conversation_id)
            if newest is not None and newest.last_seq >= transcript.last.seq and not again:
                return newest
            analysis_id = _analysis_id(transcript, again=again, request_id=request_id)
            if newest is not None and newest.analysis_id == analysis_id:
                return newest
            made = await self._made(transcript, trigger, analysis_id, newest)
            try:
                return await self._store.add(made)
            except VersionTakenError:
                continue
        raise race_lost()

    async def _made(
        self, transcript: Transcript, trigger: Trigger, analysis_id: str, newest: Analysis | None
    ) -> Analysis:
        settings = await self._store.settings(transcript.tenant_id)
        examples = await self._store.examples(transcript.tenant_id)
        findings = await asyncio.to_thread(local_findings, transcript, examples)
        findings, spent, missed = await self._asked_further(transcript, analysis_id, findings, settings)
        analysis = Analysis(
            analysis_id=analysis_id,
            tenant_id=transcript.tenant_id,
            conversation_id=transcript.conversation_id,
            version=newest.version + 1 if newest else 1,
            newest=True,
            trigger=trigger,
            create_time=self._now(),
            last_seq=transcript.last.seq,
            last_time=transcript.last.time,
            findings=findings,
            who=transcript.who,
            user_id=transcript.user_id,
            assistant_id=transcript.assistant_id,
            team_id=transcript.team_id,
            channel=transcript.channel,
            spent=spent,
            missed=missed,
        )
        analysis = with_corrections(analysis, newest) if newest else analysis
        return _with_steps(analysis, transcript, settings)

    async def _asked_further(
        self, transcript: Transcript, analysis_id: str, findings: Findings, settings: Settings
    ) -> tuple[Findings, Spent, Missed]:
        """The findings with what the language model says of the uncertain ones, if it is there and may be asked."""
        fields = uncertain(findings)
        if not fields:
            return findings, Spent(), Missed.NO
        if self._language_model is None or not settings.language_model:
            return findings, Spent(), Missed.OFF
        held = await self._budget.hold(
            transcript.tenant_id,
            transcript.conversation_id,
            analysis_id,
            worst_case_tokens(transcript),
            self._language_model.model,
            settings,
        )
        if isinstance(held, Missed):
            return findings, Spent(), held
        try:
            reply: Reply = await self._language_model.ask(transcript)
        except LanguageModelFailedError:
            await self._budget.release(transcript.tenant_id, analysis_id, held)
            return findings, Spent(), Missed.FAILED
        spent = replace(reply.spent, reservation_id=held)
        if reply.verdict is None:
            return findings, spent, Missed.JUNK
        return merged(findings, reply.verdict, fields), spent, Missed.NO


def _analysis_id(transcript: Transcript, *, again: bool, request_id: str) -> str:
    """The same for everybody who analyses the same: a version says what is known up to a message."""
    place = ("analysis", transcript.tenant_id, transcript.conversation_id)
    if not again:
        return derived_id(*place, "seq", str(transcript.last.seq))
    return derived_id(*place, "request", request_id) if request_id else new_id()


def _with_steps(analysis: Analysis, transcript: Transcript, settings: Settings) -> Analysis:
    answers = [each for each in transcript.utterances if not each.by_user and each.text]
    free = answers and (answers[-1].generated_rating or not answers[-1].rating)
    left = settings.automatic_feedback and free and analysis.findings.sentiment is not Sentiment.NEUTRAL
    steps = (
        Step.COUNT,
        Step.LINK,
        *((Step.FEEDBACK,) if left else ()),
        *((Step.CHARGE,) if analysis.spent.reservation_id else ()),
    )
    return replace(analysis, feedback_on=answers[-1].message_id if left else "", pending=steps)
