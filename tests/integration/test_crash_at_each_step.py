"""A worker dies at each step of a request: the provider, the books and the replies agree all the same."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from contracts import names
from tests.chaos.judge import Verdict, judge
from tests.collector import Collector
from tests.crashing_worker import CRASHED, FAILED_INSIDE, NO_STEP, TOLD
from tests.harness import Service, World, eventually
from tests.integration.test_dead_letters import listed

ASKED = "asked"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
PLAIN_BODY = json.dumps({"path": "/chat/completions", "body": CHAT}).encode()
STREAM_BODY = json.dumps({"path": "/chat/completions", "body": {**CHAT, "stream": True}}).encode()
#: Workers that are started at a time.
AT_ONCE = 4
#: Steps of the same name in which workers die.
MOST_ALIKE = 2
#: A request waits for no key before it is claimed, however soon there is one.
CLAIMED_FIRST = "workers.generation.attempts.AT_ONCE_S=0"
#: However slow the machine is, there is a key before the claim, and no reservation is too old for its call.
AT_LEISURE = ("workers.generation.attempts.AT_ONCE_S=60", "workers.generation.attempts.STALE_S=60")
#: How long to wait for what a dead worker had, in seconds. RabbitMQ 3.10 was seen (twice) to count the
#: consumer of a worker that had acknowledged all, and died, for more than 90 s.
RETURNED_S = 45
#: Until when a key has no room that is waited for, in milliseconds.
COOLED_MS = 1000


async def one_key(world: World, bot: str) -> None:
    await world.add_key(bot, "Primary")


async def a_key_that_refuses_first(world: World, bot: str) -> None:
    """Of keys that are alike the one that was never used is tried first."""
    backup = await world.add_key(bot, "Backup")
    await world.mongo.keys.update_one({"_id": backup}, [{"$set": {"last_used_at": "$$NOW"}}])
    await world.add_key(bot, "Refusing", {"rate_limited_for_ms": 3_600_000})


async def a_key_that_has_no_room_yet(world: World, bot: str) -> None:
    key = await world.add_key(bot, "Primary")
    cooled = {"cooled_until": {"$add": ["$$NOW", COOLED_MS]}, "cool_reason": "rate_limited"}
    await world.mongo.keys.update_one({"_id": key}, [{"$set": cooled}])


@dataclass(frozen=True, slots=True)
class Life:
    """A kind of request.

    Attributes:
        places: what it does, in this order; each is a step, or the place of some.
        body: of the request.
        keys: adds those of its automation.
        constants: of its workers that have other values.
    """

    places: tuple[str, ...]
    body: bytes = PLAIN_BODY
    keys: Callable[[World, str], Awaitable[None]] = one_key
    constants: tuple[str, ...] = ()


PLAIN = Life(
    (
        "Attempts.first",
        "Journal.claim",
        "Attempts._ask",
        "RequestHandler._record",
        "RequestHandler._reply",
    )
)
STREAMED = Life(("Attempts._stream > wait", "Chunks.send"), STREAM_BODY)
FAILED_OVER = Life(
    ("Attempts._ask", "Attempts.reserve", "Journal.begin"),
    keys=a_key_that_refuses_first,
    constants=AT_LEISURE,
)
WAITING = Life(
    ("Journal.claim", "Journal.begin", "Attempts._ask"),
    keys=a_key_that_has_no_room_yet,
    constants=(CLAIMED_FIRST,),
)


@dataclass(frozen=True, slots=True)
class Lane:
    """A request of an automation of its own, whose worker dies at a step."""

    bot: str
    life: Life
    step: str
    collector: Collector


async def crash(world: World, lane: Lane, *mutation: str) -> Service:
    """Ask, and have a worker die of it, or end it where it comes to its end before."""
    worker = await Service.start(
        world.folder / f"{lane.bot}.log",
        {**world.environment, "KEYWAY_LANES": lane.bot},
        "tests.altered",
        *lane.life.constants,
        "--",
        "tests.crashing_worker",
        lane.step,
        *mutation,
    )
    world.services.append(worker)
    await lane.collector.ask(ASKED, lane.life.body)

    async def is_over() -> bool:
        return worker.process.returncode is not None or f'"{TOLD}"' in worker.log.read_text()

    await eventually(is_over, f"the end of {lane}")
    if worker.process.returncode is None:
        await worker.stop()
    assert worker.process.returncode in {0, CRASHED}, worker.log.read_text()[-2000:]
    return worker


async def open_lane(world: World, life: Life, step: str) -> Lane:
    bot = await world.add_automation()
    await life.keys(world, bot)
    return Lane(bot, life, step, await Collector(world, bot).__aenter__())


async def steps_of(world: World, life: Life, *mutation: str) -> list[str]:
    """The steps of a request that is not disturbed."""
    lane = await open_lane(world, life, NO_STEP)
    worker = await crash(world, lane, *mutation)
    await close([lane])
    (told,) = [event["steps"] for event in worker.events() if event["event"] == TOLD]
    return list(told)


async def crash_at(world: World, steps: Sequence[tuple[Life, str]], *mutation: str) -> list[Lane]:
    """Have workers die at steps, each of a request of its own, and another worker end what they left."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(life: Life, step: str) -> Lane:
        async with gate:
            lane = await open_lane(world, life, step)
            await crash(world, lane, *mutation)
            return lane

    lanes = await asyncio.gather(*(one(life, step) for life, step in steps))
    left = [lane for lane in lanes if await is_left(world, lane)]
    await world.silence_workers()
    survivor = await world.start_worker()

    async def are_ended() -> bool:
        ends = {"request_finished", "request_repeated"}
        ended = {event["automation_id"] for event in survivor.events() if event["event"] in ends}
        return ended >= {lane.bot for lane in left}

    await eventually(are_ended, "the end of what was left")
    assert await survivor.stop() == 0
    return lanes


def kind_of(step: str) -> str:
    """What alike steps share, of which one is enough: those within a call, and a stream's later chunks."""
    name, _, number = step.rpartition(" ")
    in_call = name.rpartition("Upstream._ask > ")[2]
    return f"{in_call} {min(int(number), MOST_ALIKE)}"


async def is_left(world: World, lane: Lane) -> bool:
    """Whether the request is in its queue still, once its dead worker's connection is gone."""
    async with world.connection.channel() as channel:

        async def queue() -> tuple[int, int]:
            declared = await channel.declare_queue(names.lane_queue(lane.bot), passive=True)
            found = declared.declaration_result
            return found.consumer_count or 0, found.message_count or 0

        until = time.monotonic() + RETURNED_S

        async def is_unread() -> bool:
            return (await queue())[0] == 0 or time.monotonic() > until

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


async def test_a_worker_may_die_at_each_step_of_a_request(world: World) -> None:
    await world.start_accounting()
    lives = (PLAIN, STREAMED, FAILED_OVER, WAITING)
    known: set[str] = set()
    steps: list[tuple[Life, str]] = []
    for life, found in zip(
        lives, await asyncio.gather(*(steps_of(world, life) for life in lives)), strict=True
    ):
        places = [next((place for place in life.places if place in step), "") for step in found]
        assert [place for place in dict.fromkeys(places) if place] == list(life.places), found
        new = {kind_of(step): step for step in reversed(found)}
        steps += [(life, step) for kind, step in reversed(new.items()) if kind not in known]
        known |= new.keys()
    lanes = await crash_at(world, steps)
    for lane in lanes:

        async def is_kept(lane: Lane = lane) -> bool:
            return not (await verdict_of(world, lane)).problems

        try:
            await eventually(is_kept, "books that agree")
        except AssertionError:
            print(f"{lane.life.places} after {lane.step}")  # noqa: T201  # pytest shows it
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
    lanes = await crash_at(world, [(PLAIN, step) for step in steps if "_record" in step], mutation)
    verdicts = [await verdict_of(world, lane) for lane in lanes]
    assert any(found in problem for verdict in verdicts for problem in verdict.problems), verdicts
    await close(lanes)


async def test_the_dead_letter_of_a_recorded_failure_is_not_lost_with_the_worker(world: World) -> None:
    steps = await steps_of(world, PLAIN, "fail_inside")
    (recorded,) = [step for step in steps if "Journal.record: done" in step]
    (lane,) = await crash_at(world, [(PLAIN, recorded)], "fail_inside")
    await lane.collector.have(1)
    (answer,) = lane.collector.answers
    assert answer.error is not None
    assert (answer.error.code, answer.replayed) == ("internal", True)
    (letter,) = await listed(world, lane.bot, 1)
    assert letter["reason"] == FAILED_INSIDE
    await close([lane])
