"""Token counts between the contracts and the model."""

from prosa.common.v1 import usage_pb2 as pb
from services.document_rag.assistants.model import TokenCount, UsageSource

_SOURCES = {
    UsageSource.PROVIDER: pb.USAGE_SOURCE_PROVIDER,
    UsageSource.PARTIAL: pb.USAGE_SOURCE_PARTIAL,
    UsageSource.ESTIMATED: pb.USAGE_SOURCE_ESTIMATED,
}
_SOURCES_BACK = {wire: source for source, wire in _SOURCES.items()}


def tokens_to_proto(tokens: TokenCount) -> pb.TokenUsage:
    """TokenCount → TokenUsage."""
    return pb.TokenUsage(
        input_tokens=tokens.input,
        cached_input_tokens=tokens.cached_input,
        output_tokens=tokens.output,
        reasoning_tokens=tokens.reasoning,
    )


def tokens_from_proto(usage: pb.TokenUsage) -> TokenCount:
    """TokenUsage → TokenCount."""
    return TokenCount(usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens)


def usage_source_to_proto(source: UsageSource) -> pb.UsageSource.ValueType:
    """UsageSource of the model → of the contract."""
    return _SOURCES[source]


def usage_source_from_proto(source: pb.UsageSource.ValueType) -> UsageSource:
    """UsageSource of the contract → of the model; what is not stated was estimated."""
    return _SOURCES_BACK.get(source, UsageSource.ESTIMATED)
