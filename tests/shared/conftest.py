"""A server whose street is walked by tests, quick to drain."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest
import structlog

from shared.config import ServiceConfig
from tests.house.in_process import Metadata, as_caller, serving, token
from tests.house.signing import SigningKeys
from tests.shared.street_contract import PERMISSION, Behaviour, endpoint

Serving = Callable[[Behaviour], AbstractAsyncContextManager[grpc.aio.Channel]]


def quick_config(**settings: Any) -> ServiceConfig:
    """Any port, no wait before draining."""
    return ServiceConfig(**{"port": 0, "drain_delay_seconds": 0.0, "shutdown_grace_seconds": 1.0, **settings})


@pytest.fixture
def street(signing_keys: SigningKeys) -> Serving:
    """`async with street(behaviour) as channel:` serves the test contract."""
    return lambda behaviour: serving([endpoint(behaviour)], signing_keys, config=quick_config())


@pytest.fixture
def walker(signing_keys: SigningKeys) -> Metadata:
    """Metadata of a caller who may do everything on the street."""
    return as_caller(token(signing_keys, tenant_id="t1", user_id="u1", scopes=[PERMISSION]))


@pytest.fixture
def logs() -> Iterator[None]:
    """Whatever a test sets up is put back, because logging belongs to the whole process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
