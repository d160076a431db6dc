"""What a service makes of another's answer: nobody is told of a distrust that is between the two of them."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from grpc_status import rpc_status

from shared.errors import (
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
    status_of,
)
from shared.neighbours import answers_of

AWAY = Unavailable(dependency="chat_store")
PASSED_ON = [NotFound("conversation", "c1"), DeadlineExceeded(), PermissionDenied("no", reason="TENANT_INACTIVE")]


def refused(error: ServiceError) -> AioRpcError:
    """The error as the client of the service that raised it sees it."""
    status = rpc_status.to_status(status_of(error))
    return AioRpcError(status.code, Metadata(), Metadata(*status.trailing_metadata), status.details)


def heard(error: Exception) -> ServiceError:
    """What the caller is told of it."""
    with pytest.raises(ServiceError) as told, answers_of("chat_store"):
        raise error
    return told.value


@pytest.mark.parametrize("over_the_wire", [True, False])
@pytest.mark.parametrize("error", [Unauthenticated(), PermissionDenied("who are you"), Unavailable()])
def test_distrust_and_absence_of_a_neighbour_are_its_being_away(error: ServiceError, over_the_wire: bool) -> None:
    told = heard(refused(error) if over_the_wire else error)
    assert isinstance(told, Unavailable)
    assert told.metadata == {"dependency": "chat_store"}


@pytest.mark.parametrize("error", [*PASSED_ON, Unavailable(dependency="mongo")], ids=lambda each: each.reason)
def test_every_other_answer_is_passed_on_as_it_is(error: ServiceError) -> None:
    told = heard(refused(error))
    assert type(told) is type(error)
    assert (told.reason, told.metadata) == (error.reason, error.metadata)


def test_an_answer_without_a_typed_status_is_told_by_its_code() -> None:
    told = heard(AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), "connection refused to 10.0.0.3"))
    assert told.metadata == AWAY.metadata
    assert "10.0.0.3" not in told.message
