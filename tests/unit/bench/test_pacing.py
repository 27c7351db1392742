"""A closed loop keeps its number in flight, an open loop its rate, whatever answers take."""

import asyncio

from tests.bench.latencies import Latencies
from tests.bench.pacing import closed_loop, open_loop


async def test_a_closed_loop_sends_all_and_never_has_more_in_flight() -> None:
    in_flight, most = 0, 0

    async def ask() -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        in_flight -= 1

    load = await closed_loop(ask, requests=50, in_flight=4)
    assert (load.requests, most) == (50, 4)
    assert Latencies.decoded([load.latencies]).count == 50


async def test_an_open_loop_counts_the_wait_of_requests_that_a_stall_held_up() -> None:
    # Each answer waits for the one before, as at a server that does one at a time; the first takes 0.2 s,
    # in which all others are due.
    busy, first = asyncio.Lock(), True

    async def ask() -> None:
        nonlocal first
        async with busy:
            if first:
                first = False
                await asyncio.sleep(0.2)

    load = await open_loop(ask, requests=20, rate=1000)
    latencies = Latencies.decoded([load.latencies])
    assert latencies.count == 20
    # The last was due after 19 ms. A loop that had waited for the first would call all others quick.
    assert latencies.percentile_ms(10) >= 150


async def test_an_open_loop_does_not_send_before_a_request_is_due() -> None:
    async def ask() -> None:
        await asyncio.sleep(0)

    load = await open_loop(ask, requests=11, rate=100)
    assert load.seconds >= 0.1
