"""How often something asynchronous can be done in a second, several at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

AT_ONCE: Final = 8
"""Circuits that are built at one time: enough to keep every process busy, too few for anybody's limits."""


async def rate(build: Callable[[int], Awaitable[object]], hops: int, number: int) -> float:
    """Circuits a second, over `number` of them."""
    turns = iter(range(number))

    async def work() -> None:
        for _ in turns:
            await build(hops)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return number / (time.perf_counter() - began)
