"""A whole system of its own for the faults: they leave scars that no journey should see."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.fake_provider import FakeProvider, fake_provider
from tests.house.processes import System, running_system

ANSWER_TIMEOUT_SECONDS = 30
LEASE_SECONDS = 35


@pytest.fixture(scope="package")
def provider() -> Iterator[FakeProvider]:
    """The fake LLM that the system's assistants can name as their model."""
    with fake_provider() as provider:
        yield provider


@pytest.fixture(scope="package")
def system(provider: FakeProvider) -> Iterator[System]:
    """Leases short enough to be waited for."""
    directory = Path(tempfile.mkdtemp(prefix="prosa-faults-"))
    directory.chmod(0o755)
    settings = {
        "OPENAI_API_KEY": "fake",
        "OPENAI_BASE_URL": provider.base_url,
        "DOCUMENT_RAG_ANSWER_TIMEOUT_SECONDS": str(ANSWER_TIMEOUT_SECONDS),
        "DOCUMENT_RAG_RESERVATION_LEASE_SECONDS": str(LEASE_SECONDS),
        "DOCUMENT_RAG_TURN_LEASE_SECONDS": "2",
        "ANALYTICS_FEED_LEASE_SECONDS": "3",
        "ANALYTICS_WORKER_CLAIM_IDLE_SECONDS": "3",
    }
    with running_system(directory, settings) as system:
        yield system
    shutil.rmtree(directory, ignore_errors=True)
