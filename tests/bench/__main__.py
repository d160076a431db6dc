"""`python -m tests.bench [name …]`: runs the named measurements, or all; status 1 when one misses its bar."""

import importlib
import sys
from collections.abc import Sequence

from tests.bench.table import Row

BENCHES = {
    "turn": "tests.bench.turn",
    "ask": "tests.bench.ask",
    "street": "tests.bench.street",
    "chat": "tests.bench.chat",
    "chat_search": "tests.bench.chat_search",
    "chat_soak": "tests.bench.chat_soak",
    "quota": "tests.bench.quota",
    "quota_service": "tests.bench.quota_service",
    "rates": "tests.bench.rates",
    "statement": "tests.bench.statement",
    "retrieval": "tests.bench.retrieval",
    "ingest_memory": "tests.bench.ingest_memory",
    "events": "tests.bench.events",
    "intake": "tests.bench.intake",
    "content": "tests.bench.content",
    "panel": "tests.bench.panel",
    "live": "tests.bench.live",
    "large_tenant": "tests.bench.large_tenant",
    "gateway": "tests.bench.gateway",
    "chroma": "tests.bench.chroma",
}


def run(names: Sequence[str]) -> int:
    """Runs them one after the other; each prints its table and returns its rows."""
    unknown = sorted(set(names) - BENCHES.keys())
    if unknown:
        print(f"no such measurement: {', '.join(unknown)} (there are: {', '.join(BENCHES)})", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names or BENCHES:
        rows += importlib.import_module(BENCHES[name]).main()
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
