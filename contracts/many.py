"""Many calls, some at a time, their outcomes in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from contracts.errors import KeywayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far many calls have come.

    Attributes:
        done: calls that are over, failed ones included.
        failed: those of them that failed.
        total: how many there are to be; None where that is not known beforehand.
    """

    done: int
    failed: int
    total: int | None


async def in_order(
    call: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    *,
    concurrency: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[R | KeywayError]:
    """Call for each item.

    Args:
        call: what to do with an item.
        items: taken one by one, as calls can begin.
        concurrency: calls that may be under way at once.
        on_progress: called after each call.

    Returns:
        What each call returned, or the `KeywayError` that it raised, in the order of the items.

    Raises:
        ValueError: `concurrency` is less than 1.
        Exception: any other error of a call, of the items or of `on_progress`; the other calls are cancelled.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; expected 1 or more")
    total = len(items) if isinstance(items, Sized) else None
    outcomes: dict[int, R | KeywayError] = {}
    failed = 0
    numbered = enumerate(items)

    async def work() -> None:
        nonlocal failed
        for number, item in numbered:
            try:
                outcomes[number] = await call(item)
            except KeywayError as error:
                outcomes[number] = error
                failed += 1
            if on_progress is not None:
                on_progress(Progress(len(outcomes), failed, total))

    workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, total or concurrency))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [outcomes[number] for number in range(len(outcomes))]
