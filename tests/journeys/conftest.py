"""One whole system for all journeys of a session, with the fake provider behind its OpenAI-compatible settings."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.fake_provider import FakeProvider, fake_provider
from tests.house.processes import System, running_system


@pytest.fixture(scope="session")
def provider() -> Iterator[FakeProvider]:
    """The fake LLM that the system's assistants can name as their model."""
    with fake_provider() as provider:
        yield provider


@pytest.fixture(scope="session")
def system(provider: FakeProvider) -> Iterator[System]:
    """Engines, services and gateway in their own processes; the demo tenant is seeded."""
    directory = Path(tempfile.mkdtemp(prefix="prosa-system-"))
    directory.chmod(0o755)
    settings = {"OPENAI_API_KEY": "fake", "OPENAI_BASE_URL": provider.base_url}
    with running_system(directory, settings) as system:
        yield system
    shutil.rmtree(directory, ignore_errors=True)
