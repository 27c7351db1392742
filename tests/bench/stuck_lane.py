"""What a lane pays for 10,000 requests in another lane that has no room, and how soon a change is heard of.

    python -m tests.bench.stuck_lane [--quick]

The same requests are asked one after the other, alone and beside the others, in rounds; the least of the
rounds counts on both sides, since what disturbs a machine only adds.
"""

import asyncio
import time
from contextlib import AsyncExitStack

from aio_pika import Message

from contracts import Keyway, names
from tests.bench.first_chunk import percentile
from tests.bench.part import Bench, Finding, Goal, Report, bench_automation, columns, run_alone
from tests.harness import World, eventually
from workers.keys.key import Limits

STUCK, PAGE = 10_000, 1000
REQUESTS, ROUNDS, QUICK_ROUNDS = 100, 6, 3
BODY = b'{"path": "/moderations", "body": {"input": "hello"}}'
BESIDE = Goal("p99 of a lane beside 10,000 requests without room in another, to its p99 alone", 1.5)
RESUMED = Goal("a lane without room serves after its key's limit is raised", 1, "s")


async def least_p99_ms(keyway: Keyway, rounds: int) -> float:
    """Of requests one after the other."""
    found = []
    for _ in range(rounds):
        took = []
        for _ in range(REQUESTS):
            began = time.perf_counter()
            await keyway.generate("/moderations", input="hello")
            took.append((time.perf_counter() - began) * 1000)
        found.append(percentile(took, 99))
    return min(found)


async def fill(world: World, stuck: str) -> None:
    """Put the requests without room into their lane, and wait until their workers have left it alone."""
    async with world.connection.channel() as channel:
        requests = await channel.get_exchange(names.REQUESTS_EXCHANGE, ensure=False)
        for _ in range(0, STUCK, PAGE):
            await asyncio.gather(*(requests.publish(Message(BODY), stuck) for _ in range(PAGE)))

    async def is_left_alone() -> bool:
        queue = await world.admin.call("GET", f"queues/{{vhost}}/{names.lane_queue(stuck)}")
        return bool(queue.get("messages_ready", 0) >= STUCK - 10 and queue.get("consumers") == 0)

    await eventually(is_left_alone, "the lane without room paused")


async def resumed_s(world: World, stuck: str) -> float:
    """How long after a change a lane without room is served."""
    before = len(await world.journal(stuck))
    began = time.perf_counter()
    await world.keys.change(stuck, "Primary", limits={"requests_per_minute": None})

    async def is_served() -> bool:
        return len(await world.journal(stuck)) > before

    await eventually(is_served, "a request of the lane that has room now", every_s=0.02)
    return time.perf_counter() - began


async def report(bench: Bench) -> Report:
    """Alone, beside the others, and what a change takes."""
    rounds = QUICK_ROUNDS if bench.quick else ROUNDS
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(bench.world())
        free = await bench_automation(world, world.simulator.base_url)
        stuck = await world.add_automation()
        await world.add_key(stuck, "Primary", limits=Limits(requests_per_minute=1))
        await world.start_accounting()
        await world.start_worker()
        keyway = await stack.enter_async_context(world.client(free))
        bench.step("stuck lane: alone")
        alone = await least_p99_ms(keyway, rounds)
        bench.step("stuck lane: beside the others")
        await fill(world, stuck)
        beside = await least_p99_ms(keyway, rounds)
        resumed = await resumed_s(world, stuck)
    rows = [("", "p99 ms"), ("alone", f"{alone:.2f}"), ("beside 10,000", f"{beside:.2f}")]
    figures = {"alone_p99_ms": alone, "beside_p99_ms": beside, "resumed_s": resumed}
    findings = [Finding(BESIDE, beside / alone), Finding(RESUMED, resumed)]
    return Report("A lane beside another without room", columns(rows), findings, figures)


if __name__ == "__main__":
    run_alone(report, "tests.bench.stuck_lane", __doc__ or "")
