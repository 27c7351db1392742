"""Results that are kept until they are collected: later, elsewhere, after a crash or a lost queue."""

import asyncio
import sys
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aio_pika import DeliveryMode
from aiormq.exceptions import ChannelNotFoundEntity

from contracts import GenerationRequest, GenerationResult, Keyway, PublishError, names
from contracts.errors import InvalidReplyError
from tests.harness import PATIENCE_S, World, child_environment, eventually
from tests.responder import Responder

#: Takes one result and is killed over it, before it asks for the next.
DYING_COLLECTOR = """
import asyncio, os, sys
from contracts import Keyway

async def main():
    async with Keyway(sys.argv[1]) as keyway:
        async for result in keyway.results("nightly"):
            print(result.request_id, flush=True)
            os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def submit(keyway: Keyway, count: int, name: str = "nightly") -> list[str]:
    return [await keyway.submit("/moderations", name=name, input=f"text {n}") for n in range(count)]


async def collect(keyway: Keyway, name: str = "nightly", *, idle_s: float = 6.0) -> list[GenerationResult]:
    return [result async for result in keyway.results(name, idle_s=idle_s)]


async def kept(world: World, bot: str, count: int) -> None:
    """Wait until so many results are kept, so that whoever collects them has no pause among them."""

    async def there() -> bool:
        async with world.connection.channel() as channel:
            queue = await channel.declare_queue(f"replies.{bot}.nightly", passive=True)
            return (queue.declaration_result.message_count or 0) >= count

    await eventually(there, f"{count} results in the queue")


async def consumed(world: World, queue: str) -> bool:
    async with world.connection.channel() as channel:
        try:
            found = await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity:
            return False
        return bool(found.declaration_result.consumer_count)


async def test_results_are_collected_later_and_by_another_client(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with shared.client(bot) as keyway:
        asked = await submit(keyway, 5)
        assert len(set(asked)) == 5
        await kept(shared, bot, 5)
    async with shared.client(bot) as keyway:
        results = await collect(keyway)
        assert sorted(result.request_id for result in results) == sorted(asked)
        assert {result.status for result in results} == {"succeeded"}
        assert await collect(keyway, idle_s=0.5) == []
        assert await collect(keyway, "another", idle_s=0.5) == []


async def test_a_result_whose_collector_is_killed_over_it_comes_again(shared: World) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with shared.client(bot) as keyway:
        asked = await submit(keyway, 3)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            DYING_COLLECTOR,
            shared.url_of(bot),
            env=child_environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            stdout, _ = await process.communicate()
        assert process.returncode == -9
        assert stdout.decode().strip() in asked
        await kept(shared, bot, 3)
        results = await collect(keyway)
        assert sorted(result.request_id for result in results) == sorted(asked)


async def test_a_client_that_may_not_read_its_queue_is_told_so_at_once(unserved: World) -> None:
    bot = await unserved.add_automation()
    own = names.permissions(bot)
    await unserved.admin.call("PUT", f"permissions/{{vhost}}/{bot}", {**own, "read": "^$"})
    async with unserved.client(bot) as keyway, asyncio.timeout(PATIENCE_S):
        queue = f"replies.{bot}.nightly"
        with pytest.raises(PublishError, match=f"may not read the queue {queue}: .*ACCESS_REFUSED"):
            await collect(keyway)
        await unserved.admin.call("PUT", f"permissions/{{vhost}}/{bot}", own)
        assert await collect(keyway, idle_s=0.5) == []


async def test_a_result_is_acknowledged_when_the_next_is_asked_for(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        for number in range(3):
            await keyway.submit("/moderations", name="nightly", request_id=f"r-{number}", input="x")
            await (await worker.take()).result()
        async with aclosing(keyway.results("nightly")) as results:
            assert (await anext(results)).request_id == "r-0"
        async with aclosing(keyway.results("nightly")) as results:
            assert [(await anext(results)).request_id for _ in range(2)] == ["r-0", "r-1"]
        assert [result.request_id for result in await collect(keyway)] == ["r-1", "r-2"]
        assert await collect(keyway, idle_s=0.5) == []


async def test_failed_results_are_given_and_not_raised(shared: World) -> None:
    bot = await shared.add_automation()
    async with shared.client(bot) as keyway:
        await submit(keyway, 1)
        await kept(shared, bot, 1)
        (result,) = await collect(keyway)
    assert result.error is not None
    assert result.error.code == "no_keys"


async def test_collecting_goes_on_though_the_connection_is_closed_and_the_queue_deleted(
    unserved: World,
) -> None:
    bot = await unserved.add_automation()
    queue = f"replies.{bot}.nightly"
    async with (
        Responder(unserved, bot) as worker,
        unserved.client(bot) as keyway,
        aclosing(keyway.results("nightly")) as results,
    ):

        async def next_after(harm: Any, request_id: str) -> None:
            waiting = asyncio.ensure_future(anext(results))
            await eventually(lambda: consumed(unserved, queue), "a consumer")
            await harm
            await eventually(lambda: consumed(unserved, queue), "a consumer again")
            await keyway.submit("/moderations", name="nightly", request_id=request_id, input="x")
            await (await worker.take()).result()
            async with asyncio.timeout(PATIENCE_S):
                assert (await waiting).request_id == request_id

        await next_after(asyncio.sleep(0), "r-1")
        await next_after(unserved.close_connections(bot), "r-2")
        await next_after(unserved.admin.call("DELETE", f"queues/{{vhost}}/{queue}"), "r-3")


async def test_what_is_no_result_is_an_error_once_and_collecting_can_go_on(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        await submit(keyway, 1)
        asked = await worker.take()
        await asked.send("generation.result.v1", b"{}")
        await asked.result()
        with pytest.raises(InvalidReplyError, match=asked.request_id):
            await collect(keyway)
        assert [result.request_id for result in await collect(keyway)] == [asked.request_id]


async def test_requests_are_safe_and_durable_when_submit_returns(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with unserved.client(bot) as keyway:
        request_id = await keyway.submit(
            "/moderations", {"user": "theirs"}, name="nightly", user="u-1", timeout=3600, input="x"
        )
    queue = await unserved.admin.call("GET", f"queues/{{vhost}}/replies.{bot}.nightly")
    assert (queue["type"], queue["durable"], queue["exclusive"]) == ("quorum", True, False)
    async with Responder(unserved, bot) as worker:
        asked = await worker.take()
    assert (asked.request_id, asked.message.reply_to) == (request_id, f"replies.{bot}.nightly")
    assert asked.message.delivery_mode == DeliveryMode.PERSISTENT
    request = GenerationRequest.model_validate_json(asked.message.body)
    assert (request.user_id, request.body) == ("u-1", {"user": "theirs", "input": "x"})
    assert request.deadline is not None
    assert timedelta(minutes=55) < request.deadline - datetime.now(UTC) <= timedelta(hours=1)


async def test_what_can_not_be_is_refused(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with unserved.client(bot) as keyway:
        with pytest.raises(ValueError, match="can't be streamed"):
            await keyway.submit("/responses", name="nightly", input="x", stream=True)
        for name in ("", "a b", "a/b", "x" * 101):
            with pytest.raises(ValueError, match="can't name a reply queue"):
                await keyway.submit("/moderations", name=name, input="x")
            with pytest.raises(ValueError, match="can't name a reply queue"):
                keyway.results(name)
        await unserved.admin.call("PUT", f"queues/{{vhost}}/replies.{bot}.classic", {"durable": True})
        with pytest.raises(PublishError, match="is there with other settings"):
            await keyway.submit("/moderations", name="classic", input="x")
        with pytest.raises(PublishError, match="is there with other settings"):
            await collect(keyway, "classic")
    url = unserved.settings.amqp_url.get_secret_value()
    async with Keyway(url, automation_id="nobody") as keyway:
        with pytest.raises(PublishError, match="no automation nobody"):
            await keyway.submit("/moderations", name="nightly", input="x")
