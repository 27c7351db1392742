"""Many calls: in order, so many at a time, taken as needed, their errors in place."""

import asyncio
from collections.abc import Iterator

import pytest

from contracts.errors import KeywayError, PublishError
from contracts.many import Progress, in_order


async def double(number: int) -> int:
    return 2 * number


async def test_outcomes_are_in_the_order_of_the_items_not_of_their_ends() -> None:
    async def slower_first(number: int) -> int:
        for _ in range(10 - number):
            await asyncio.sleep(0)
        return number

    assert await in_order(slower_first, range(10), concurrency=10) == list(range(10))


async def test_errors_of_calls_stand_in_place() -> None:
    async def odd_fails(number: int) -> int:
        if number % 2:
            raise PublishError(f"no {number}")
        return number

    outcomes = await in_order(odd_fails, range(4), concurrency=2)
    assert [outcome if isinstance(outcome, int) else str(outcome) for outcome in outcomes] == [
        0,
        "no 1",
        2,
        "no 3",
    ]


@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_never_more_are_under_way_and_items_are_taken_as_they_are_needed(concurrency: int) -> None:
    under_way = most = taken = ended = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(20):
            assert taken - ended < concurrency
            taken += 1
            yield number

    async def call(number: int) -> int:
        nonlocal under_way, most, ended
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        ended += 1
        return number

    assert await in_order(call, items(), concurrency=concurrency) == list(range(20))
    assert most == min(concurrency, 20)


async def test_progress_is_told_after_each_with_the_total_where_it_is_known() -> None:
    async def third_fails(number: int) -> int:
        if number == 2:
            raise KeywayError
        return number

    seen: list[Progress] = []
    await in_order(third_fails, [0, 1, 2, 3], concurrency=1, on_progress=seen.append)
    assert seen == [Progress(1, 0, 4), Progress(2, 0, 4), Progress(3, 1, 4), Progress(4, 1, 4)]
    seen.clear()
    await in_order(double, iter([1]), concurrency=1, on_progress=seen.append)
    assert seen == [Progress(1, 0, None)]


async def test_nothing_to_do_is_done_at_once() -> None:
    assert await in_order(double, [], concurrency=5) == []


async def test_any_other_error_ends_all_and_leaves_nothing_running() -> None:
    ended: list[int] = []

    async def call(number: int) -> int:
        if number == 2:
            raise ValueError("not a request")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)
        return number

    with pytest.raises(ValueError, match="not a request"):
        await in_order(call, range(5), concurrency=3)
    assert sorted(ended) == [0, 1]


async def test_a_concurrency_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrency is 0; expected 1 or more"):
        await in_order(double, [1], concurrency=0)
