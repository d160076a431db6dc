"""What is done with texts takes its time when they are long: then it is done beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

# Fewer are done with sooner than a thread begins. The longest text that search looks through takes 30 ms.
SHORT_CHARACTERS = 10_000

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


async def beside_if_long(characters: int, work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    """What the work makes of its arguments, texts of so many characters."""
    if characters <= SHORT_CHARACTERS:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)
