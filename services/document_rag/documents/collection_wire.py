"""Collections between protobuf and the model."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from prosa.document_rag.v1 import collection_service_pb2 as pb
from services.document_rag.model import Collection, CollectionFields, CollectionPlace, Scope, refuse_nul
from services.document_rag.scope_wire import scope_to_proto
from shared.errors import FieldViolation, InvalidArgument

_CHANGEABLE = ("display_name", "description")


def fields_of(request: pb.CreateCollectionRequest) -> CollectionFields:
    """What the client sets of the new collection."""
    refuse_nul({"request_id": request.request_id})
    said = request.collection
    return CollectionFields(said.display_name, said.description, said.embedding_model, said.dimensions)


def changes_of(request: pb.UpdateCollectionRequest) -> dict[str, str]:
    """The fields that the mask names, with their new values; InvalidArgument for a path that cannot be changed."""
    unknown = [path for path in request.update_mask.paths if path not in _CHANGEABLE]
    if unknown or not request.update_mask.paths:
        violations = [FieldViolation("update_mask", f"{path} cannot be changed", "field_mask") for path in unknown]
        raise InvalidArgument(f"update_mask names some of: {', '.join(_CHANGEABLE)}", violations=violations)
    changes = {path: getattr(request.collection, path) for path in request.update_mask.paths}
    refuse_nul({f"collection.{path}": value for path, value in changes.items()})
    return changes


def collection_message(collection: Collection) -> pb.Collection:
    """A collection as clients see it."""
    return pb.Collection(
        collection_id=collection.collection_id,
        display_name=collection.display_name,
        description=collection.description,
        scope=scope_to_proto(collection.scope),
        embedding_model=collection.embedding_model,
        dimensions=collection.dimensions,
        document_count=collection.document_count,
        create_time=_timestamp(collection.created_at),
        update_time=_timestamp(collection.updated_at),
    )


def collection_list(collections: Iterable[Collection], next_page_token: str) -> pb.ListCollectionsResponse:
    """One page of collections."""
    return pb.ListCollectionsResponse(collections=map(collection_message, collections), next_page_token=next_page_token)


def position_of(collection: Collection) -> dict[str, Any]:
    """Where the page that ends with the collection ends."""
    return {"scope": collection.scope.value, "name": collection.display_name, "id": collection.collection_id}


def list_position(position: Mapping[str, Any] | None) -> CollectionPlace | None:
    """Where a page begins; InvalidArgument for a position that no page of ours ends with."""
    if position is None:
        return None
    try:
        return CollectionPlace(Scope(position["scope"]), str(position["name"]), str(UUID(position["id"])))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID") from None


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
