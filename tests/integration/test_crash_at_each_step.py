"""A worker dies at each step of a request: the provider, the books and the replies agree all the same."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from contracts import names
from tests.chaos.judge import Verdict, judge
from tests.collector import Collector
from tests.crashing_worker import CRASHED, TOLD
from tests.harness import Service, World, eventually

ASKED = "asked"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
PLAIN = json.dumps({"path": "/chat/completions", "body": CHAT}).encode()
#: Workers that are started at a time.
AT_ONCE = 4
#: What a request does, in this order; each is a step, or the place of some.
LIFE = (
    "Attempts.first",
    "Journal.claim",
    "Attempts._ask",
    "RequestHandler._record",
    "RequestHandler._reply",
)


@dataclass(frozen=True, slots=True)
class Lane:
    """A request of an automation of its own, whose worker dies at a step."""

    bot: str
    step: int
    collector: Collector


async def crash(world: World, lane: Lane, body: bytes, *mutation: str) -> Service:
    """Ask, and have a worker die of it, or end it where it comes to its end before."""
    worker = await Service.start(
        world.folder / f"{lane.bot}.log",
        {**world.environment, "KEYWAY_LANES": lane.bot},
        "tests.crashing_worker",
        str(lane.step),
        *mutation,
    )
    world.services.append(worker)
    await lane.collector.ask(ASKED, body)

    async def is_over() -> bool:
        return worker.process.returncode is not None or f'"{TOLD}"' in worker.log.read_text()

    await eventually(is_over, f"the end of {lane}", within_s=60)
    if worker.process.returncode is None:
        await worker.stop()
    assert worker.process.returncode in {0, CRASHED}, worker.log.read_text()[-2000:]
    return worker


async def open_lane(world: World, step: int) -> Lane:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")
    return Lane(bot, step, await Collector(world, bot).__aenter__())


async def steps_of(world: World, body: bytes, *mutation: str) -> list[str]:
    """The steps of a request that is not disturbed."""
    worker = await crash(world, await open_lane(world, 0), body, *mutation)
    (told,) = [event["steps"] for event in worker.events() if event["event"] == TOLD]
    return list(told)


async def crash_at(world: World, steps: Sequence[int], body: bytes, *mutation: str) -> list[Lane]:
    """Have workers die at steps, each of a request of its own, and another worker end what they left."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(step: int) -> Lane:
        async with gate:
            lane = await open_lane(world, step)
            await crash(world, lane, body, *mutation)
            return lane

    lanes = await asyncio.gather(*map(one, steps))
    left = [lane for lane in lanes if await is_left(world, lane)]
    await world.silence_workers()
    survivor = await world.start_worker()

    async def are_ended() -> bool:
        ends = {"request_finished", "request_repeated"}
        ended = {event["automation_id"] for event in survivor.events() if event["event"] in ends}
        return ended >= {lane.bot for lane in left}

    await eventually(are_ended, "the end of what was left", within_s=60)
    assert await survivor.stop() == 0
    return lanes


async def is_left(world: World, lane: Lane) -> bool:
    """Whether the request is in its queue still, once its dead worker's connection is gone."""
    async with world.connection.channel() as channel:

        async def queue() -> tuple[int, int]:
            declared = await channel.declare_queue(names.lane_queue(lane.bot), passive=True)
            found = declared.declaration_result
            return found.consumer_count or 0, found.message_count or 0

        async def is_unread() -> bool:
            return (await queue())[0] == 0

        await eventually(is_unread, f"the end of the connection of {lane}")
        return (await queue())[1] > 0


async def verdict_of(world: World, lane: Lane) -> Verdict:
    doubts = Counter(
        event["request_id"]
        for service in world.services
        for event in service.events()
        if event["event"] == "attempt_ambiguous" and event["automation_id"] == lane.bot
    )
    calls, rows = await world.journal(lane.bot), await world.ledger(lane.bot)
    return judge([ASKED], lane.collector.answers, calls, rows, doubts)


async def close(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        await lane.collector.__aexit__()


@pytest.mark.minutes
@pytest.mark.parametrize("body", [PLAIN], ids=["plain"])
async def test_a_worker_may_die_at_each_step_of_a_request(world: World, body: bytes) -> None:
    await world.start_accounting()
    steps = await steps_of(world, body)
    places = [next((place for place in LIFE if place in step), "") for step in steps]
    assert [place for place in dict.fromkeys(places) if place] == list(LIFE), steps
    lanes = await crash_at(world, range(1, len(steps) + 1), body)
    for lane in lanes:

        async def is_kept(lane: Lane = lane) -> bool:
            return not (await verdict_of(world, lane)).problems

        try:
            await eventually(is_kept, "books that agree")
        except AssertionError:
            print(f"after {steps[lane.step - 1]}")  # noqa: T201  # pytest shows it
            (await verdict_of(world, lane)).assert_kept()
            raise
    await close(lanes)


@pytest.mark.parametrize(
    ("mutation", "found"),
    [
        ("acknowledge_before_the_record", "no answer"),
        ("reply_before_the_record", "2 answers that do not say that they repeat one"),
    ],
)
async def test_the_judge_finds_a_life_in_the_wrong_order(world: World, mutation: str, found: str) -> None:
    steps = await steps_of(world, PLAIN, mutation)
    recording = [number for number, step in enumerate(steps, start=1) if "_record" in step]
    lanes = await crash_at(world, recording, PLAIN, mutation)
    verdicts = [await verdict_of(world, lane) for lane in lanes]
    assert any(found in problem for verdict in verdicts for problem in verdict.problems), verdicts
    await close(lanes)
