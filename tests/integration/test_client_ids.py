"""One id, used for several things at once, mixes up none of them."""

import asyncio

import pytest

from contracts import names
from contracts.errors import PublishError
from tests.harness import World
from tests.responder import Responder

BODY = {"input": "hello"}


async def test_each_of_several_submits_with_one_id_is_told_that_nothing_takes_it(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with unserved.client(bot) as keyway:
        await keyway.submit("/moderations", BODY, name="q")
        channel = await unserved.connection.channel()
        await channel.queue_delete(names.lane_queue(bot))
        outcomes = await asyncio.gather(
            *(keyway.submit("/moderations", BODY, name="q", request_id="one-id") for _ in range(5)),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [PublishError] * 5


async def test_two_clients_of_one_automation_each_get_their_answer_to_one_id(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with (
        unserved.client(bot) as one,
        unserved.client(bot) as other,
        Responder(unserved, bot) as responder,
    ):
        asking = [
            asyncio.create_task(keyway.generate("/moderations", BODY, request_id="one-id"))
            for keyway in (one, other)
        ]
        for asked in [await responder.take() for _ in asking]:
            await asked.result(model=asked.message.reply_to)
        answers = await asyncio.gather(*asking)
        assert len({answer.model for answer in answers}) == 2


async def test_the_same_request_twice_at_once_by_one_client_is_refused_the_second_time(
    unserved: World,
) -> None:
    bot = await unserved.add_automation()
    async with unserved.client(bot) as keyway, Responder(unserved, bot) as responder:
        first = asyncio.create_task(keyway.generate("/moderations", BODY, request_id="one-id"))
        asked = await responder.take()
        with pytest.raises(ValueError, match="one-id is under way already"):
            await keyway.generate("/moderations", BODY, request_id="one-id")
        await asked.result()
        assert (await first).request_id == "one-id"
