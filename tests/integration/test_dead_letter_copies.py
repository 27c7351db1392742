"""A dead letter is confirmed by its queue, however large its message was and whoever else uses its id."""

from collections.abc import AsyncIterator

import pytest
from aio_pika import connect_robust
from aio_pika.abc import AbstractRobustConnection

from contracts import names
from infra.dead_letters import DeadLetters
from tests.builders import make_delivery
from tests.harness import World

LIMIT = 1024


@pytest.fixture
async def connection(unserved: World) -> AsyncIterator[AbstractRobustConnection]:
    async with await connect_robust(unserved.settings.amqp_url.get_secret_value()) as opened:
        yield opened


async def test_a_body_that_rabbitmq_does_not_take_is_left_out_and_the_reason_says_so(
    connection: AbstractRobustConnection,
) -> None:
    channel = await connection.channel()
    queue = await channel.get_queue(names.DEAD_QUEUE)
    await queue.purge()
    dead = await DeadLetters.open(connection, max_message_bytes=LIMIT)
    for size in (LIMIT, LIMIT + 1):
        original = make_delivery(b"x" * size, headers={"CC": ["requests.other"], "mark": size})
        await dead.publish(original, "because", routing_key="billing-bot")
    whole, bare = await queue.get(no_ack=True), await queue.get(no_ack=True)
    assert (len(whole.body), whole.headers[names.REASON_HEADER]) == (LIMIT, "because")
    assert (bare.body, bare.headers["mark"], "CC" in bare.headers) == (b"", LIMIT + 1, False)
    reason = str(bare.headers[names.REASON_HEADER])
    assert reason.startswith(f"because (the body is left out: it has {LIMIT + 1} bytes")
