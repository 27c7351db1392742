"""Fuzzing below any client library: whatever bytes an automation sends, it alone is concerned."""

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from aio_pika import connect
from aio_pika.abc import AbstractIncomingMessage

from contracts.names import REASON_HEADER, lease_queue
from infra.lenient_frames import be_lenient
from tests.chaos.byte_fuzz import ByteFuzzer, Bytes
from tests.chaos.report import Report
from tests.harness import World, eventually
from tests.raw_amqp import RawPublisher, RefusedError

#: Messages that are sent before their confirms are waited for.
WINDOW = 50
#: Seconds between the requests of the automation that is not to notice.
PACE_S = 0.05
#: What no log may say: a connection that was lost, a defect, a delivery that nobody could end.
NEVER = (
    *("reader exited abnormally", "Unexpected connection close", "Reconnecting"),
    *("Traceback", "task_failed", "delivery_failed", "request_failed_inside", "event_not_booked"),
    *("batch_not_booked", "Consumer callback failed"),
)
#: A lane's requests that were not dead-lettered end with one of these.
ENDS = ("request_finished", "request_repeated")


class Sent:
    """What RabbitMQ took of the automation, by routing key, and what it refused."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.taken: Counter[str] = Counter()
        self.refused = 0

    async def publish(self, messages: list[Bytes]) -> None:
        safe = [message for message in messages if not message.may_be_refused]
        publisher = await RawPublisher.connect(self._url)
        for start in range(0, len(safe), WINDOW):
            window = safe[start : start + WINDOW]
            for message in window:
                publisher.send_frames(message.frames)
            await publisher.confirm()
            self.taken.update(message.routing_key for message in window)
        assert publisher.refused == 0, "a queue was full"
        for message in messages:
            if not message.may_be_refused:
                continue
            if await publisher.is_taken(message.frames):
                self.taken[message.routing_key] += 1
            else:
                self.refused += 1
                publisher.close()
                publisher = await RawPublisher.connect(self._url)
        publisher.close()


class Dead:
    """The dead letters, by routing key; those that a service wrote say why."""

    def __init__(self) -> None:
        self.letters: Counter[str] = Counter()
        self.without_reason: Counter[str] = Counter()

    async def note(self, message: AbstractIncomingMessage) -> None:
        routing_key = message.routing_key or ""
        self.letters[routing_key] += 1
        if REASON_HEADER not in message.headers:
            self.without_reason[routing_key] += 1


async def ask(world: World, bot: str, until: asyncio.Event) -> int:
    """Have an ordinary automation's requests answered, one every `PACE_S`; how many there were."""
    asking: list[asyncio.Task[str]] = []
    async with world.client(bot) as keyway:

        async def one(number: int) -> str:
            result = await keyway.generate("/moderations", input=f"hello {number}", timeout=120)
            return "replayed" if result.replayed else result.status

        while not until.is_set():
            asking.append(asyncio.create_task(one(len(asking))))
            with suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), PACE_S)
        assert Counter(await asyncio.gather(*asking)) == {"succeeded": len(asking)}
    return len(asking)


@pytest.mark.timeout(600)
async def test_bytes_that_no_library_would_send_harm_only_their_own_messages(
    world: World, is_long: bool, seed: int, report: Report
) -> None:
    count = 20_000 if is_long else 500
    bot, other = await world.add_automation(), await world.add_automation()
    await world.add_key(bot, "Primary")
    await world.add_key(other, "Primary")
    await world.start_accounting()
    await world.start_worker()
    await world.start_worker()
    await world.start_leasing()
    be_lenient()
    dead, sent, is_over = Dead(), Sent(world.url_of(bot)), asyncio.Event()
    async with await connect(world.settings.amqp_url.get_secret_value()) as connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(f"replies.{bot}.fuzz", durable=True)
        letters = await channel.get_queue("dead", ensure=False)
        await letters.consume(dead.note, no_ack=True)
        fuzzer = ByteFuzzer(seed, bot, replies.name)
        ordinary = asyncio.create_task(ask(world, other, is_over))
        try:
            await sent.publish([fuzzer.message() for _ in range(count)])

            async def all_have_ended() -> bool:
                return not missing(world, bot, sent, dead)

            await eventually(
                all_have_ended, "an end of each message", within_s=900 if is_long else 300, every_s=1
            )
        except (AssertionError, RefusedError) as error:
            pytest.fail(f"seed {seed}: {error}; missing {missing(world, bot, sent, dead)}")
        finally:
            is_over.set()
        asked = await ordinary
        await replies.delete(if_unused=False, if_empty=False)
    await world.accounted(other, asked)
    await world.assert_books_equal_journal(other)
    for service in world.services:
        assert service.process.returncode is None
        log = service.log.read_text()
        assert [said for said in NEVER if said in log] == [], f"seed {seed}: {service.log}"
    assert not dead.without_reason, f"seed {seed}: RabbitMQ ended what a service should have"
    report.tell(
        seed=seed,
        messages=count,
        refused_by_rabbitmq=sent.refused,
        dead_lettered=dead.letters.total(),
        ordinary_requests=asked,
        reconnects=0,
    )


def missing(world: World, bot: str, sent: Sent, dead: Dead) -> dict[str, int]:
    """How many messages were neither answered nor dead-lettered, by routing key; heartbeats need no end."""
    events = [event for service in world.services for event in service.events()]
    own = [event for event in events if event.get("automation_id") == bot]
    # What ends as `internal` is answered, and lies among the dead letters too.
    said = Counter(str(event.get("event")) for event in own if event.get("status") != "internal")
    ended = {
        bot: dead.letters[bot] + sum(said[end] for end in ENDS),
        lease_queue(bot): dead.letters[lease_queue(bot)] + said["lease_refused"],
        f"usage.reported.{bot}": dead.letters[f"usage.reported.{bot}"],
    }
    return {key: sent.taken[key] - count for key, count in ended.items() if sent.taken[key] != count}
