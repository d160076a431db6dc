"""A person corrects an analysis: the next version, and an example for conversations like it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from services.analytics.analyses.analysis_store import AnalysisStore, VersionTakenError, race_lost
from services.analytics.analyses.analyze import Analyses
from services.analytics.analyses.merging import corrected
from services.analytics.analyses.model import Analysis, AnalysisSuperseded, Missed, Spent, Step, Trigger
from shared.errors import NotFound
from shared.identifiers import derived_id, new_id


class Corrections:
    """Keeps what people say in the place of what was found."""

    def __init__(self, store: AnalysisStore, analyses: Analyses, now: Callable[[], datetime]) -> None:
        self._store = store
        self._analyses = analyses
        self._now = now

    async def correct(
        self, tenant_id: str, analysis_id: str, values: Mapping[str, Any], by: str, request_id: str
    ) -> Analysis:
        """The next version; NotFound, AnalysisSuperseded, RequestIdReused."""
        fingerprint = _fingerprint(analysis_id, values)
        if request_id:
            known = await self._store.asked_before(tenant_id, request_id, fingerprint)
            if known is not None:
                return await self._analyses.finish(known)
        before = await self._store.get(tenant_id, analysis_id)
        after = self._version(before, values, by, request_id)
        if before.newest:
            after = await self._added(after)
        else:
            after = await self._same_request(before, after)
        if request_id:
            await self._store.remember(after, request_id, fingerprint, self._now())
        return await self._analyses.finish(after)

    def _version(self, before: Analysis, values: Mapping[str, Any], by: str, request_id: str) -> Analysis:
        place = ("correction", before.tenant_id, before.analysis_id, request_id)
        return replace(
            before,
            analysis_id=derived_id(*place) if request_id else new_id(),
            version=before.version + 1,
            newest=True,
            trigger=Trigger.CORRECTED,
            create_time=self._now(),
            findings=corrected(before.findings, values),
            spent=Spent(),
            missed=Missed.NO,
            corrected_by=by,
            corrected_fields=tuple(dict.fromkeys([*before.corrected_fields, *values])),
            pending=(Step.COUNT, Step.LINK, Step.LEARN),
        )

    async def _added(self, after: Analysis) -> Analysis:
        try:
            return await self._store.add(after)
        except VersionTakenError:
            newest = await self._store.newest(after.tenant_id, after.conversation_id)
            raise AnalysisSuperseded(newest.version) if newest else race_lost() from None

    async def _same_request(self, before: Analysis, after: Analysis) -> Analysis:
        """What the same request made before its answer was lost; else the analysis was superseded by others."""
        try:
            return await self._store.get(before.tenant_id, after.analysis_id)
        except NotFound:
            newest = await self._store.newest(before.tenant_id, before.conversation_id)
            raise AnalysisSuperseded(newest.version if newest else before.version) from None


def _fingerprint(analysis_id: str, values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([analysis_id, dict(values)], sort_keys=True).encode()).hexdigest()
