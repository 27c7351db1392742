"""The client's requests: each is answered, or fails with an error that says why."""

import asyncio
import tracemalloc
from typing import Any
from urllib.parse import urlsplit

import pytest
from aio_pika import Message
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, use_span

from contracts import GenerationResult, Keyway, PublishError, ReplyTimeoutError, names
from contracts.errors import ClientClosedError, InvalidReplyError, KeysExhaustedError
from tests.harness import PATIENCE_S, World, eventually
from tests.responder import Responder, failure

CALLS = 1000
#: What a thousand calls at once may take, their answers included, in MiB.
MOST_MEMORY_MIB = 100
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def ask(keyway: Keyway, **options: Any) -> GenerationResult:
    return await keyway.generate("/moderations", input="hello", **options)


async def test_a_body_may_be_a_mapping_with_fields_that_have_the_names_of_arguments(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        body = {"model": "m", "user": "theirs", "metadata": {"a": "b"}, "path": "p"}
        asking = asyncio.ensure_future(
            keyway.generate("/responses", body, input="hello", user="ours", metadata={"c": 1})
        )
        asked = await worker.take()
        assert asked.body["body"] == {**body, "input": "hello"}
        assert (asked.body["user_id"], asked.body["metadata"]) == ("ours", {"c": 1})
        await asked.result()
        await asking


@pytest.mark.parametrize(
    ("message_type", "body"),
    [
        ("generation.result.v1", b"not json"),
        ("generation.result.v1", b'{"status": "succeeded"}'),
        ("key.lease.v1", b"{}"),
        ("something.else.v1", b"{}"),
    ],
)
async def test_an_unreadable_answer_fails_its_request_alone(
    unserved: World, message_type: str, body: bytes
) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        bad = asyncio.ensure_future(ask(keyway, request_id="bad"))
        asked = await worker.take()
        good = asyncio.ensure_future(ask(keyway, request_id="good"))
        other = await worker.take()
        await asked.send(message_type, body)
        with pytest.raises(InvalidReplyError, match="the answer to request bad is not readable") as raised:
            await bad
        assert raised.value.body == body
        await other.result()
        assert (await good).request_id == "good"


async def test_an_answer_that_failed_without_saying_why_is_unreadable(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(ask(keyway))
        await (await worker.take()).result(status="failed")
        with pytest.raises(InvalidReplyError, match="status failed with error None"):
            await asking


async def test_answers_that_nobody_asked_for_and_second_ones_are_dropped(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(ask(keyway))
        asked = await worker.take()
        await asked.result(cost_nanousd=1)
        await asked.result(cost_nanousd=2)
        assert (await asking).cost_nanousd == 1
        again = asyncio.ensure_future(ask(keyway))
        await (await worker.take()).result(cost_nanousd=3)
        assert (await again).cost_nanousd == 3


async def test_a_failed_result_is_raised_as_the_error_of_its_code(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(ask(keyway))
        failed = failure("keys_exhausted", retryable=True, retry_at="2126-01-01T00:00:00Z")
        await (await worker.take()).result(**failed)
        with pytest.raises(KeysExhaustedError) as raised:
            await asking
        assert raised.value.retryable
        assert raised.value.retry_at is not None


async def test_no_answer_is_an_error_after_the_timeout_and_the_id_is_free_again(
    unserved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contracts.client.ANSWER_GRACE_S", 0.1)
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        # Its channel is open from now on, so that the time is over after the publish only.
        opening = asyncio.ensure_future(ask(keyway))
        await (await worker.take()).result()
        await opening
        with pytest.raises(ReplyTimeoutError, match=r"no answer to request r-1 within 0\.5 s"):
            await ask(keyway, request_id="r-1", timeout=0.5)
        await worker.take()
        asking = asyncio.ensure_future(ask(keyway, request_id="r-1"))
        await (await worker.take()).result()
        await asking


async def test_an_id_that_is_under_way_is_refused(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        asking = asyncio.ensure_future(ask(keyway, request_id="r-1"))
        asked = await worker.take()
        with pytest.raises(ValueError, match="r-1 is under way already"):
            await ask(keyway, request_id="r-1")
        await asked.result()
        assert (await asking).request_id == "r-1"


async def test_a_stream_is_not_asked_for_with_generate(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with unserved.client(bot) as keyway:
        with pytest.raises(ValueError, match=r"for stream=True there is stream\(\)"):
            await ask(keyway, stream=True)


async def test_a_client_that_is_closed_ends_its_calls_and_takes_no_more(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker:
        async with unserved.client(bot) as keyway:
            asking = asyncio.ensure_future(ask(keyway))
            await worker.take()
        with pytest.raises(ClientClosedError):
            await asking
    with pytest.raises(ClientClosedError, match="use `async with"):
        await ask(keyway)
    with pytest.raises(ClientClosedError, match="use `async with"):
        await ask(Keyway(unserved.url_of(bot)))


async def test_where_no_broker_is_the_error_says_where(unserved: World) -> None:
    management = urlsplit(unserved.settings.amqp_admin_url.get_secret_value()).port
    for port in (1, management):
        with pytest.raises(PublishError, match=f"can't connect to RabbitMQ at 127.0.0.1:{port}") as raised:
            async with Keyway(f"amqp://bot:secret-token@127.0.0.1:{port}/x"):
                pass
        assert "secret" not in str(raised.value)


async def test_a_client_may_be_used_again_after_it_was_closed(unserved: World) -> None:
    bot = await unserved.add_automation()
    keyway = Keyway(unserved.url_of(bot))
    async with Responder(unserved, bot) as worker:
        for _ in range(2):
            async with keyway:
                asking = asyncio.ensure_future(ask(keyway))
                await (await worker.take()).result()
                await asking
                async with keyway.stream("/responses", input="hello") as stream:
                    await (await worker.take()).result()
                    assert [chunk async for chunk in stream] == []


async def test_an_unauthorised_user_gets_a_clear_error(unserved: World) -> None:
    bot, other = await unserved.add_automation(), await unserved.add_automation()
    async with Keyway(unserved.url_of(bot), automation_id=other) as keyway:
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(ask(keyway) for _ in range(20)), return_exceptions=True), PATIENCE_S
        )
        assert {(type(outcome), str(outcome)) for outcome in outcomes} == {
            (PublishError, f"this user may not publish to {other}")
        }


async def test_a_message_that_the_broker_refuses_harms_no_other(unserved: World) -> None:
    """The refusal closes the channel under everything that is on it; whose fault it was is found out."""
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:
        waiting = asyncio.ensure_future(ask(keyway, request_id="before"))
        await worker.take()
        forged = Message(b"{}", message_id="forged", user_id="somebody-else")
        asking = [asyncio.ensure_future(ask(keyway, request_id=f"beside-{number}")) for number in range(5)]
        with pytest.raises(PublishError, match="RabbitMQ refuses the message: PRECONDITION_FAILED"):
            await keyway._requests.tell(forged, keyway._lane)

        async def answer_all() -> None:
            while True:
                await (await worker.take()).result()

        answering = asyncio.ensure_future(answer_all())
        ids = {result.request_id for result in await asyncio.gather(waiting, *asking)}
        answering.cancel()
        assert ids == {"before", *(f"beside-{number}" for number in range(5))}


async def test_the_trace_that_is_current_or_given_goes_with_a_request(unserved: World) -> None:
    bot = await unserved.add_automation()
    async with Responder(unserved, bot) as worker, unserved.client(bot) as keyway:

        async def headers(**options: Any) -> dict[str, Any]:
            asking = asyncio.ensure_future(ask(keyway, **options))
            asked = await worker.take()
            await asked.result()
            await asking
            return {name: asked.message.headers.get(name) for name in names.TRACE_HEADERS}

        assert await headers() == {"traceparent": None, "tracestate": None}
        assert await headers(traceparent=TRACEPARENT) == {"traceparent": TRACEPARENT, "tracestate": None}
        span = SpanContext(
            trace_id=0x0AF7651916CD43DD8448EB211C80319C,
            span_id=0xB7AD6B7169203331,
            is_remote=False,
            trace_flags=TraceFlags(1),
            trace_state=TraceState([("vendor", "1")]),
        )
        with use_span(NonRecordingSpan(span)):
            assert await headers() == {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
            async with keyway.stream("/responses", input="hello"):
                assert (await worker.take()).message.headers["traceparent"] == TRACEPARENT
            await keyway.submit("/moderations", name="traced", input="hello")
            assert (await worker.take()).message.headers["traceparent"] == TRACEPARENT


async def test_a_thousand_calls_at_once_are_all_answered_though_the_connection_is_closed(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary", {"latency_ms": 500})
    await shared.add_key(bot, "Secondary", {"latency_ms": 500})
    tracemalloc.start()
    try:
        async with shared.client(bot) as keyway:
            asking = [
                asyncio.create_task(
                    keyway.generate(
                        "/chat/completions",
                        model="gpt-4o-mini",
                        messages=[{"role": "user", "content": f"request {number}"}],
                        timeout=150,
                    )
                )
                for number in range(CALLS)
            ]

            async def some_are_answered() -> bool:
                return sum(task.done() for task in asking) > CALLS // 20

            await eventually(some_are_answered, "the first answers")
            assert sum(task.done() for task in asking) < CALLS
            await shared.close_connections(bot)
            results = await asyncio.gather(*asking)
            assert len(keyway._under_way) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {result.status for result in results} == {"succeeded"}
    assert len({result.request_id for result in results}) == CALLS
    for number, result in enumerate(results):
        assert result.response is not None
        assert f"request {number}" in str(result.response["choices"])
    assert peak < MOST_MEMORY_MIB * 1024 * 1024
    assert len(await shared.journal(bot)) == CALLS
    await shared.assert_books_equal_journal(bot)
