"""What a tenant's administrator sees of a turn: live at once, in each report, as a file, agreeing with the ledger."""

import json
import threading
import time
from typing import Any

from tests.house.processes import System
from tests.house.zones import AT_NOON
from tests.journeys.tenant import Tenant, eventually, new_tenant

QUESTION = "Até que dia posso pagar o IPTU?"


def test_a_turn_is_live_at_once_and_then_in_every_report(system: System) -> None:
    tenant = new_tenant(system)
    tenant.admin.upload("iptu.txt", "O IPTU vence em 10 de março.".encode(), title="IPTU")
    seen: list[tuple[float, int]] = []
    stop = threading.Event()
    watching = threading.Thread(target=_watch, args=(tenant, seen, stop))
    watching.start()
    try:
        eventually(lambda: bool(seen))
        told = tenant.admin.ask(tenant.assistant_id, QUESTION)
        completed = time.monotonic()
        assert told.completed
        eventually(lambda: any(turns == 1 for _, turns in seen))
    finally:
        stop.set()
        tenant.admin.ask(tenant.assistant_id, QUESTION)
        watching.join(60)
    at = next(moment for moment, turns in seen if turns == 1)
    assert at - completed < 15, "two seconds, where the machine has time"
    eventually(lambda: int(tenant.admin.get("/v1/reports/usage")["total"]["turns"]) == 2)
    _every_report(tenant)
    _all_records_agree(tenant)


def _watch(tenant: Tenant, seen: list[tuple[float, int]], stop: threading.Event) -> None:
    with tenant.admin.http.stream("GET", "/v1/reports/live:watch", params={"timeZone": AT_NOON}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {") and "report" in line:
                report: dict[str, Any] = json.loads(line.removeprefix("data: "))["report"]
                seen.append((time.monotonic(), int(report["today"]["turns"])))
            if stop.is_set():
                return


def _every_report(tenant: Tenant) -> None:
    speed = tenant.admin.get("/v1/reports/performance")["total"]
    assert speed["latencyMs"]["p95"] >= speed["latencyMs"]["p50"] > 0
    facts = tenant.admin.get("/v1/reports/facts", errorsOnly="false")["facts"]
    assert len(facts) == 4
    assert sum(int(fact["costMicros"]) for fact in facts) == int(
        tenant.admin.get("/v1/reports/usage")["total"]["costMicros"]
    )
    repriced = tenant.admin.get("/v1/reports/repricing")
    assert {row["model"] for row in repriced["rows"]} >= {"extractive"}
    for kind in ("USAGE", "PERFORMANCE", "TOPICS", "SENTIMENT", "USER_ACTIVITY", "SESSIONS", "ERRORS", "REPRICING"):
        file = tenant.admin.http.get("/v1/reports:export", params={"report": f"REPORT_KIND_{kind}"})
        assert file.status_code == 200, file.text
        assert file.headers["content-type"] == "text/csv; charset=utf-8"
        assert file.text.startswith("\ufeffinício;")


def _all_records_agree(tenant: Tenant) -> None:
    checked = tenant.admin.post("/v1/agreement:check", {})
    assert checked["drifts"] == [], checked
    lines = {line["model"]: line for line in checked["lines"]}
    answered = lines["extractive"]
    assert answered["facts"] == answered["rollups"] == answered["messages"]
    for name in ("inputTokens", "cachedInputTokens", "outputTokens", "reasoningTokens"):
        assert answered["ledger"][name] == answered["facts"][name]
    assert int(answered["facts"]["inputTokens"]) > 0
    assert tenant.admin.get("/v1/agreement/drifts")["drifts"] == []
