"""The books are exact: each event counts once, however often and in whatever company it is delivered."""

import asyncio
import json
import random
import secrets
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
from aio_pika import DeliveryMode, Message
from pymongo.errors import OperationFailure

from contracts.messages import Outcome, UsageRecorded
from contracts.names import event_routing_key
from infra.bounds import MOST_NANOUSD
from tests.harness import World, eventually
from workers.accounting import ledger
from workers.accounting.ledger import SMALL_BATCH, Ledger

#: How MongoDB says that a transaction took too long (TransactionExceededLifetimeLimitSeconds).
TOO_LONG = 290


def event(bot: str, number: int, **changes: Any) -> UsageRecorded:
    return UsageRecorded(
        event_id=f"r-{number}:1",
        request_id=f"r-{number}",
        automation_id=bot,
        user_id=f"u-{number % 7}",
        key_id=f"key-{number % 3}",
        key_alias=f"K{number % 3}",
        path="/chat/completions",
        model=("gpt-4o-mini", "gpt-4o")[number % 2],
        outcome=Outcome.OK,
        http_status=200,
        prompt_tokens=number,
        completion_tokens=2 * number,
        total_tokens=3 * number,
        cost_nanousd=1000 + number,
        price_known=True,
        latency_ms=10,
        reserved_tokens=3 * number,
        occurred_at=datetime.now(UTC),
    ).model_copy(update=changes)


async def publish(world: World, events: list[UsageRecorded]) -> None:
    async with world.connection.channel() as channel:
        exchange = await channel.get_exchange("events", ensure=False)
        await asyncio.gather(
            *(
                exchange.publish(
                    Message(
                        e.model_dump_json().encode(),
                        type="usage.recorded.v1",
                        delivery_mode=DeliveryMode.PERSISTENT,
                    ),
                    event_routing_key("usage.recorded.v1", e.automation_id),
                )
                for e in events
            )
        )


async def test_an_event_counts_once_however_often_it_is_delivered(shared: World) -> None:
    bot = await shared.add_automation()
    events = [event(bot, number) for number in range(300)]
    thrice = events * 3
    random.Random(7).shuffle(thrice)
    await publish(shared, thrice)
    await shared.accounted(bot, 300)
    await publish(shared, events[:50])
    marker = [event(bot, 999)]
    await publish(shared, marker)
    rows = await shared.accounted(bot, 301)
    assert len(rows) == 301
    for dimension in ("key", "automation", "user", "model"):
        await shared.assert_totals_equal_ledger(bot, dimension)
    totals = [t async for t in shared.mongo.usage_daily.find({"automation_id": bot, "dimension": "user"})]
    assert len(totals) == 7
    assert sum(t["total_tokens"] for t in totals) == sum(e.total_tokens for e in events + marker)


async def test_what_is_told_late_of_an_ambiguous_attempt_takes_its_place_and_never_the_other_way_round(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "cost_nanousd": 0}
    ends = [event(bot, number) for number in (1, 2)]
    unknown = [end.model_copy(update={"outcome": Outcome.AMBIGUOUS, **nothing}) for end in ends]
    await publish(shared, [unknown[0], ends[1]])
    await shared.accounted(bot, 2)
    await publish(shared, [ends[0], unknown[1]])
    await publish(shared, [event(bot, 3)])
    rows = await shared.accounted(bot, 3)
    assert sorted((row["event_id"], row["outcome"]) for row in rows) == [
        ("r-1:1", "ok"),
        ("r-2:1", "ok"),
        ("r-3:1", "ok"),
    ]
    for dimension in ("key", "automation", "user", "model"):
        await shared.assert_totals_equal_ledger(bot, dimension)
    found = shared.mongo.usage_daily.find({"automation_id": bot, "dimension": "automation"})
    (total,) = [total async for total in found]
    assert (total["ambiguous"], total["succeeded"], total["attempts"]) == (0, 3, 3)


async def test_the_books_are_exact_though_accounting_is_killed_again_and_again(world: World) -> None:
    bot = await world.add_automation()
    events = [event(bot, number) for number in range(2000)]
    await publish(world, events)
    for _ in range(4):
        accounting = await world.start_accounting()
        await publish(world, random.Random(1).sample(events, 100))
        await accounting.stop(signal.SIGKILL)
    await world.start_accounting()
    rows = await world.accounted(bot, 2000)
    assert len(rows) == 2000
    for dimension in ("key", "automation", "user", "model"):
        await world.assert_totals_equal_ledger(bot, dimension)


async def test_a_standby_takes_over_when_the_active_one_is_gone(world: World) -> None:
    bot = await world.add_automation()
    active = await world.start_accounting()
    await world.start_accounting()
    await publish(world, [event(bot, 1)])
    await world.accounted(bot, 1)
    await active.stop(signal.SIGKILL)
    await publish(world, [event(bot, 2)])
    assert len(await world.accounted(bot, 2)) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"event_id": 1}, "event_id: Input should be a valid string"),
        ({"cost_nanousd": 2**63}, f"cost_nanousd: expected at most {MOST_NANOUSD}"),
        ({"http_status": 2**63}, "it can't be stored: OverflowError"),
    ],
)
async def test_an_event_that_can_not_be_booked_is_dead_lettered_and_stops_nobody(
    shared: World, changes: dict[str, Any], reason: str
) -> None:
    bot = await shared.add_automation()
    async with shared.connection.channel() as channel:
        exchange = await channel.get_exchange("events", ensure=False)
        message = Message(
            json.dumps(event(bot, 2).model_dump(mode="json") | changes).encode(),
            type="usage.recorded.v1",
            message_id=(mark := secrets.token_hex(8)),
        )
        await exchange.publish(message, f"usage.recorded.{bot}")
        await publish(shared, [event(bot, 1)])
        await shared.accounted(bot, 1)
        reasons: list[str] = []

        async def dead() -> bool:
            async with shared.connection.channel() as reading:
                queue = await reading.get_queue("dead", ensure=False)
                while (letter := await queue.get(fail=False)) is not None:
                    if letter.message_id == mark:
                        reasons.append(str(letter.headers["x-keyway-reason"]))
                        await letter.ack()
                        return True
            return False

        await eventually(dead, "the dead letter")
    assert reasons[0].startswith(reason)


async def test_an_unknown_price_is_marked_and_never_silently_nothing(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with shared.client(bot) as keyway:
        result = await keyway.generate("/embeddings", model="embedding-of-our-own", input="hello")
    assert result.cost_nanousd == 0
    (row,) = await shared.accounted(bot, 1)
    assert not row["price_known"]
    status, _, stderr = await shared.cli("usage", "--automation", bot)
    assert status == 0
    assert "without a known price" in stderr


async def test_an_answer_without_usage_is_estimated_and_marked_so(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"omit_usage": True})
    async with shared.client(bot) as keyway:
        messages = [{"role": "user", "content": "hello"}]
        result = await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=messages)
    assert result.usage.total_tokens > 0
    (row,) = await shared.accounted(bot, 1)
    assert row["tokens_estimated"]
    assert row["total_tokens"] == result.usage.total_tokens


async def test_a_batch_that_is_too_large_for_a_transaction_is_halved(
    shared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    transaction = shared.mongo.transaction

    async def short_lived(work: Any) -> Any:
        entries, _ = work.args
        sizes.append(len(entries))
        if len(entries) > SMALL_BATCH:
            raise OperationFailure("the transaction took too long", TOO_LONG)
        return await transaction(work)

    monkeypatch.setattr(ledger, "RETRY_S", 0)
    monkeypatch.setattr(shared.mongo, "transaction", short_lived)
    bot = f"bot-{secrets.token_hex(4)}"
    events = [event(bot, number) for number in range(2 * SMALL_BATCH + 1)]
    assert await Ledger(shared.mongo).apply(events) == [True] * len(events)
    assert sizes == [501, 250, 251, 125, 126]
    assert len(await shared.ledger(bot)) == len(events)
    for dimension in ("key", "automation", "user", "model"):
        await shared.assert_totals_equal_ledger(bot, dimension)
