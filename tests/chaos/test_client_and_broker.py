"""One client with very much under way, while RabbitMQ itself is killed."""

import asyncio
from typing import Any

from contracts import Keyway
from infra.local.rabbitmq import RabbitMQ
from tests.chaos.fleet import Fleet
from tests.chaos.own_services import kill_and_restart
from tests.chaos.report import Report
from tests.harness import World, eventually

#: How long the provider takes: so long that most calls are under way when the broker ends, in milliseconds.
LATENCY_MS = 1500
TIMEOUT_S = 300.0
MODEL = "gpt-4o-mini"


def body(number: int) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"call {number}"}]}


async def text_of(keyway: Keyway, number: int) -> str:
    """What a stream said in the end: what came before a restart of it is forgotten."""
    said = ""
    async with keyway.stream("/chat/completions", body(number), timeout=TIMEOUT_S) as stream:
        async for chunk in stream:
            said = "" if chunk.restarted else said
            said += "".join(choice["delta"].get("content") or "" for choice in chunk.data["choices"])
    assert stream.result is not None
    assert stream.result.status == "succeeded"
    return said


async def test_many_calls_and_some_streams_of_one_client_outlive_the_broker(
    world_on_rabbitmq: World, rabbitmq: RabbitMQ, is_long: bool, report: Report
) -> None:
    world = world_on_rabbitmq
    calls, streams = (1000, 20) if is_long else (150, 10)
    bot = await world.add_automation()
    await world.add_key(bot, "Primary", {"latency_ms": LATENCY_MS})
    await world.start_accounting()
    fleet = Fleet(world, wait_for_silence=True)
    await fleet.start(2)
    async with world.client(bot) as keyway:
        asked = [
            asyncio.create_task(keyway.generate("/chat/completions", body(number), timeout=TIMEOUT_S))
            for number in range(calls)
        ]
        streamed = [asyncio.create_task(text_of(keyway, number)) for number in range(streams)]
        await some_have_come(world, bot, calls // 10)
        await kill_and_restart(rabbitmq, away_s=2)
        results = await asyncio.gather(*asked)
        said = await asyncio.gather(*streamed)
    fleet.assert_none_restarted()
    texts = [result.response["choices"][0]["message"]["content"] for result in results if result.response]
    assert [text.rpartition("call ")[2] for text in texts] == [str(number) for number in range(calls)]
    assert [text.rpartition("call ")[2] for text in said] == [str(number) for number in range(streams)]
    made = [call for call in await world.journal(bot) if not call["stream"]]
    assert len(made) == calls, "no call was paid for twice"
    report.tell(calls=calls, streams=streams, replayed=sum(result.replayed for result in results))


async def some_have_come(world: World, bot: str, count: int) -> None:
    async def there() -> bool:
        return len(await world.journal(bot)) > count

    await eventually(there, "the first calls done")
