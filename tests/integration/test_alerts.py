"""Alerts: each is raised once when its reason is there for real, and resolved when it is over."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aio_pika import connect_robust
from aio_pika.abc import AbstractIncomingMessage

from contracts import Keyway, names
from contracts.errors import KeysExhaustedError, NoUsableKeyError
from infra.alert_notices import RAISED, RESOLVED
from infra.alerts import Alert, AlertKind, raise_alert, resolve_alerts
from infra.duty import Duty
from infra.mongo import Document
from tests.builders import NOON
from tests.collector import Collector
from tests.harness import ACTOR, World, eventually
from tests.integration.test_dead_letters import bury
from tests.integration.test_heartbeats import beat, heartbeat

#: Alerts come within seconds here, not minutes.
SOON = {
    "KEYWAY_ALERT_EVERY_S": "0.3",
    "KEYWAY_ALERT_LANE_AGE_S": "2",
    "KEYWAY_ALERT_SILENCE_S": "4",
    "KEYWAY_ALERT_LEDGER_LAG_S": "2",
}
#: RabbitMQ counts every 5 s, and the machine may be busy.
WITHIN_S = 60.0


async def alert(world: World, kind: str, subject: str) -> Document | None:
    return await world.mongo.alerts.find_one({"kind": kind, "subject": subject})


async def raised(world: World, kind: str, subject: str) -> None:
    async def there() -> bool:
        found = await alert(world, kind, subject)
        return found is not None and found["resolved_at"] is None

    await eventually(there, f"{kind} of {subject}")


async def resolved(world: World, kind: str, subject: str) -> None:
    """Wait until it is over; it was raised once, and each of both is to be told of once."""
    seen: list[Document] = []

    async def over() -> bool:
        found = await alert(world, kind, subject)
        seen[:] = [found] if found is not None and found["resolved_at"] is not None else []
        return bool(seen)

    await eventually(over, f"{kind} of {subject} resolved")
    assert seen[0]["times"] == 1
    notices = world.mongo.notices.find({"alert_id": seen[0]["_id"]}).sort("at", 1)
    assert [notice["change"] async for notice in notices] == [RAISED, RESOLVED], (kind, subject)


async def ask(keyway: Keyway, model: str = "gpt-4o-mini") -> None:
    messages = [{"role": "user", "content": "hello"}]
    await keyway.generate("/chat/completions", model=model, messages=messages, timeout=WITHIN_S)


async def a_refused_key(world: World) -> None:
    bot = await world.add_automation()
    key_id = await world.add_key(bot, "Primary", {"invalid": True})
    async with world.client(bot) as keyway:
        with pytest.raises(NoUsableKeyError):
            await ask(keyway)
    await raised(world, "key_error", key_id)
    await raised(world, "pool_empty", bot)
    assert await alert(world, "pool_low", bot) is None
    await world.script(bot, "Primary")
    await world.keys.set_status(bot, "Primary", "active", "by a person")
    await resolved(world, "key_error", key_id)
    await resolved(world, "pool_empty", bot)


async def a_spent_quota(world: World) -> None:
    bot = await world.add_automation()
    key_id = await world.add_key(bot, "Primary", {"quota_exhausted": True})
    async with world.client(bot) as keyway:
        with pytest.raises(KeysExhaustedError):
            await ask(keyway)
    await raised(world, "key_exhausted", key_id)
    await world.keys.remove(bot, "Primary")
    await resolved(world, "key_exhausted", key_id)


async def a_pool_that_runs_dry(world: World) -> None:
    bot = await world.add_automation()
    for alias in ("Primary", "Backup"):
        await world.add_key(bot, alias)
    await world.keys.set_status(bot, "Primary", "disabled", "by a person")
    await raised(world, "pool_low", bot)
    await world.keys.set_status(bot, "Backup", "disabled", "by a person")
    await raised(world, "pool_empty", bot)
    for alias in ("Primary", "Backup"):
        await world.keys.set_status(bot, alias, "active", "by a person")
    await resolved(world, "pool_empty", bot)
    await resolved(world, "pool_low", bot)


async def a_lane_that_stands(world: World) -> None:
    bot = await world.add_automation()
    await world.add_key(bot, "Primary")

    async def is_consumed() -> bool:
        async with world.connection.channel() as channel:
            lane = await channel.declare_queue(names.lane_queue(bot), passive=True, robust=False)
            return bool(lane.declaration_result.consumer_count)

    async def is_left() -> bool:
        return not await is_consumed()

    async with Collector(world, bot) as collector:
        await eventually(is_consumed, "the worker consumes the lane")
        await world.provisioner.set_paused(bot, paused=True, actor=ACTOR)
        await eventually(is_left, "no worker consumes the lane")
        await collector.ask("r-1")
        await raised(world, "lane_old", bot)
        found = await alert(world, "lane_old", bot)
        assert found is not None
        assert found["reason"].endswith("the lane is paused")
        await world.provisioner.set_paused(bot, paused=False, actor=ACTOR)
        assert (await collector.answer()).status == "succeeded"
    await resolved(world, "lane_old", bot)


async def a_dead_letter(world: World) -> None:
    await bury(world, "bot", "r-1")
    await raised(world, "dead_letters", names.DEAD_QUEUE)
    status, _, stderr = await world.cli("dead", "drop", "--all", "--yes")
    assert status == 0, stderr
    await resolved(world, "dead_letters", names.DEAD_QUEUE)


async def an_automation_that_falls_silent(world: World) -> None:
    bot, quiet = await world.add_automation(), await world.add_automation()
    await beat(world, bot, heartbeat("a"))
    await raised(world, "no_heartbeat", bot)
    async with Keyway(world.url_of(bot), heartbeat_s=0.5):
        await resolved(world, "no_heartbeat", bot)
    assert await alert(world, "no_heartbeat", quiet) is None


async def a_model_without_a_price(world: World) -> None:
    bot, model = await world.add_automation(), f"own-model-{secrets.token_hex(4)}"
    await world.add_key(bot, "Primary")
    async with world.client(bot) as keyway:
        for _ in range(2):
            await ask(keyway, model)
    await raised(world, "unknown_price", model)
    status, _, stderr = await world.cli("prices", "set", model, "--input", "1", "--output", "2.5")
    assert status == 0, stderr
    await resolved(world, "unknown_price", model)


@asynccontextmanager
async def accounting_that_hangs(world: World) -> AsyncIterator[None]:
    """The active consumer of the events takes them and books none; another process stands by."""

    async def take(_: AbstractIncomingMessage) -> None:
        pass

    connection = await connect_robust(world.settings.amqp_url.get_secret_value())
    async with connection, connection.channel() as channel:
        queue = await channel.get_queue(names.ACCOUNTING_QUEUE, ensure=False)
        await queue.consume(take)
        yield


async def test_each_alert_is_raised_once_for_its_reason_and_resolved_when_it_is_over(world: World) -> None:
    trouble: list[Callable[[World], Coroutine[None, None, None]]] = [
        a_refused_key,
        a_spent_quota,
        a_pool_that_runs_dry,
        a_lane_that_stands,
        a_dead_letter,
        an_automation_that_falls_silent,
        a_model_without_a_price,
    ]
    async with asyncio.TaskGroup() as group:
        async with accounting_that_hangs(world):
            await world.start_accounting(**SOON)
            await world.start_worker()
            for cause in trouble:
                group.create_task(cause(world))
            await raised(world, "ledger_lag", names.ACCOUNTING_QUEUE)
        await resolved(world, "ledger_lag", names.ACCOUNTING_QUEUE)


async def test_what_comes_and_goes_is_told_of_once_and_then_less_and_less(unserved: World) -> None:
    mongo, key_id = unserved.mongo, secrets.token_hex(4)
    about = Alert(AlertKind.KEY_ERROR, "bot", key_id, "Primary", "2026-03-10", "refused")

    async def told() -> list[tuple[str, float]]:
        found = mongo.notices.find({"alert_id": about.id}).sort("_id", 1)
        notices = [(n["change"], (n["due_at"] - NOON).total_seconds()) async for n in found]
        return sorted(notices, key=lambda notice: notice[1])

    for _ in range(2):  # while it is open, a further reason is no news
        await mongo.transaction(partial(raise_alert, mongo, about, NOON))
    await mongo.transaction(partial(resolve_alerts, mongo, {"subject": key_id}, NOON))
    assert sorted(await told()) == [(RAISED, 0), (RESOLVED, 0)]
    await mongo.transaction(partial(raise_alert, mongo, about, NOON))
    assert (await told())[-1] == (RAISED, 30)
    await mongo.transaction(partial(resolve_alerts, mongo, {"subject": key_id}, NOON))
    assert sorted(await told()) == [(RAISED, 0), (RESOLVED, 0)]
    await mongo.transaction(partial(raise_alert, mongo, about, NOON))
    assert (await told())[-1] == (RAISED, 60)
    found = await mongo.alerts.find_one({"_id": about.id})
    assert found is not None
    assert (found["times"], found["resolved_at"]) == (3, None)


async def test_one_process_has_a_duty_until_it_gives_it_up_or_dies(unserved: World) -> None:
    name = secrets.token_hex(4)
    first, second = (Duty(unserved.mongo, name, holder, lapse_s=3600) for holder in ("a", "b"))
    assert await first.claim()
    assert not await second.claim()
    assert await first.claim()
    await first.give_up()
    assert not first.is_held
    assert await second.claim()
    assert not await first.claim()


async def test_the_duty_of_one_that_is_silent_is_taken_over(unserved: World) -> None:
    name = secrets.token_hex(4)
    silent, other = Duty(unserved.mongo, name, "a", lapse_s=0.2), Duty(unserved.mongo, name, "b")
    await silent.claim()

    async def taken_over() -> bool:
        return await other.claim()

    await eventually(taken_over, "the duty of one that is silent")
    assert not silent.is_held
