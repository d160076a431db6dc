"""What consumers of a Redis stream hold, made to look old: a test that slept instead would race with them."""

from typing import Any

AGE_MS = 60_000


async def aged(redis: Any, stream: str, group: str) -> None:
    """As if everything that is pending had been taken a minute ago, by whoever took it."""
    for each in await redis.xpending_range(stream, group, "-", "+", 1000):
        await redis.xclaim(stream, group, each["consumer"], 0, [each["message_id"]], idle=AGE_MS, justid=True)
