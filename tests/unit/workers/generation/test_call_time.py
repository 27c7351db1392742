"""The clock of a call: the provider's time and the reader's are counted, and bounded, apart."""

import asyncio

import pytest

from workers.generation.call_time import CallTime

A_WHILE_S = 0.05


async def test_while_the_reader_is_waited_for_the_providers_time_stands_still() -> None:
    time = CallTime(60.0)
    async with time.limit:
        before = time.limit.when()
        with time.reader():
            await asyncio.sleep(A_WHILE_S)
        after = time.limit.when()
    assert before is not None
    assert after is not None
    assert after - before >= A_WHILE_S
    assert time.latency_ms < (asyncio.get_running_loop().time() - time._started) * 1000 - A_WHILE_S * 900


async def test_a_reader_has_the_same_bound_in_all_its_turns_together() -> None:
    time = CallTime(0.2)

    async def read_slowly() -> None:
        async with time.limit:
            for _ in range(100):
                with time.reader():
                    await asyncio.sleep(A_WHILE_S)

    with pytest.raises(TimeoutError):
        await read_slowly()
    assert time.is_readers_fault


async def test_a_provider_that_takes_too_long_is_not_the_readers_fault() -> None:
    time = CallTime(0.05)

    async def wait_for_the_provider() -> None:
        async with time.limit:
            with time.reader():
                pass
            await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        await wait_for_the_provider()
    assert not time.is_readers_fault
    assert not time.is_reader_slow
