"""Server-sent events: how a stream of messages looks in a response body.

retry: 3000                     once, at the start
id: 1 / event: accepted / data: {…}      one per message: a running number, the member set in the message's oneof
: heartbeat                     a comment, when nothing was sent for a while
event: error / data: {…}        the google.rpc.Status JSON, when the RPC fails after the headers
event: end / data: {}           the stream is whole
"""

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": heartbeat\n\n"
END = b"event: end\ndata: {}\n\n"


def opening(retry_ms: int) -> bytes:
    """How long a browser waits before it asks again."""
    return b"retry: %d\n\n" % retry_ms


def event(number: int, name: str, data: bytes) -> bytes:
    """One message; `data` is JSON on one line, so it holds no line end."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), data)


def error(status_json: bytes) -> bytes:
    """The failure that ends a stream."""
    return b"event: error\ndata: %s\n\n" % status_json
