"""Who lives through the journeys: a tenant of their own, and the shell of its administrator."""

from pathlib import Path

import pytest

from tests.house.processes import System
from tests.journeys.tenant import Tenant, new_tenant
from tests.journeys.terminal import Terminal


@pytest.fixture
def tenant(system: System) -> Tenant:
    """A tenant nobody else uses."""
    return new_tenant(system)


@pytest.fixture
def terminal(tenant: Tenant, tmp_path: Path) -> Terminal:
    """The shell of its administrator."""
    return Terminal.of(tenant.admin, tmp_path)
