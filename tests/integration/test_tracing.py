"""One trace from the automation's publish to the books, at a collector that takes OTLP over HTTP."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from contracts import GenerationResult, Keyway
from tests.harness import Service, World, eventually, new_world
from tests.span_collector import Span, SpanCollector, start_span_collector
from workers.keys.key import Limits

PROMPT = "what nobody else may read"
CALLER = "b7ad6b7169203331"
MODEL = "gpt-4o-mini"
#: Of a request that one attempt answers, with accounting's.
SPANS_OF_ONE_ATTEMPT = 8
#: A reservation is used though its worker stood still: made anew, it would have a second span.
UNHURRIED = "workers.generation.attempts.STALE_S=3600"


@dataclass
class Traced:
    """A Keyway whose accounting and workers export spans; each worker has a lane of its own."""

    world: World
    collector: SpanCollector
    bot: str
    worker: Service
    #: Its worker puts prompts and answers into spans.
    open_bot: str
    #: Its worker's collector takes connections, and never answers.
    lone_bot: str
    lone_worker: Service


@pytest.fixture(scope="module")
async def traced(backing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    deaf = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    async with (
        deaf,
        start_span_collector() as collector,
        new_world(backing, tmp_path_factory.mktemp("traced")) as world,
    ):
        bots = [await world.add_automation() for _ in range(3)]
        for bot in bots[1:]:
            await world.add_key(bot, "Primary")
        there: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        open_: dict[str, Any] = {
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
            "OTEL_SERVICE_NAME": "open",
        }
        port = deaf.sockets[0].getsockname()[1]
        away: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
        }
        _, worker, _, lone_worker = await asyncio.gather(
            world.start("accounting", ready="accounting_ready", **there),
            world.start_worker(constants=UNHURRIED, KEYWAY_LANES=bots[0], **there),
            world.start_worker(constants=UNHURRIED, KEYWAY_LANES=bots[1], **there | open_),
            world.start_worker(KEYWAY_LANES=bots[2], **there | away),
        )
        yield Traced(world, collector, bots[0], worker, bots[1], bots[2], lone_worker)


async def ask(keyway: Keyway, **options: Any) -> GenerationResult:
    messages = [{"role": "user", "content": PROMPT}]
    return await keyway.generate("/chat/completions", model=MODEL, messages=messages, **options)


def new_trace(flags: str = "01") -> tuple[str, str]:
    """The id of a trace, and the traceparent of the automation's span."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{CALLER}-{flags}"


def children(spans: list[Span], parent_id: str) -> list[Span]:
    return [span for span in spans if span.parent_id == parent_id]


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


async def test_one_trace_holds_the_queue_the_wait_each_attempt_the_reply_and_the_books(
    traced: Traced,
) -> None:
    world, bot = traced.world, traced.bot
    await world.add_key(bot, "Good", {"held": True}, limits=Limits(max_in_flight=1))
    await world.add_key(bot, "Bad", {"invalid": True})
    # Used only while the other has no room.
    await world.mongo.keys.update_one({"automation_id": bot, "alias": "Bad"}, {"$set": {"tier": 1}})
    first_id, first_parent = new_trace()
    trace_id, _ = new_trace()
    caller = SpanContext(int(trace_id, 16), int(CALLER, 16), is_remote=False, trace_flags=TraceFlags(1))
    async with world.client(bot) as keyway:
        first = asyncio.create_task(ask(keyway, traceparent=first_parent))

        async def under_way() -> bool:
            return await world.simulator.in_flight() == 1

        await eventually(under_way, "the first call")
        with use_span(NonRecordingSpan(caller)):
            second = asyncio.create_task(ask(keyway, temperature=0.5))
        # Once its refused call is booked, it waits for the key that the first one holds.
        await world.accounted(bot, 1)
        await world.script(bot, "Good")
        result = await second
        await first
    assert [(a.key_alias, a.outcome) for a in result.attempts] == [("Bad", "auth_failed"), ("Good", "ok")]

    spans = await traced.collector.trace(trace_id, 12)
    assert len(spans) == 12, spans
    (process,) = children(spans, CALLER)
    assert (process.name, process.kind) == (f"process requests.{bot}", "consumer")
    assert process.attributes["keyway.request_id"] == result.request_id
    assert process.attributes["keyway.status"] == "succeeded"
    stages = children(spans, process.span_id)
    publishing = named(stages, "publish events")
    assert [(span.name, span.kind, span.is_error) for span in stages if span not in publishing] == [
        ("wait in queue", "internal", False),
        ("reserve key", "internal", False),
        (f"chat {MODEL}", "client", True),
        ("reserve key", "internal", False),
        (f"chat {MODEL}", "client", False),
        ("record result", "internal", False),
        ("publish amq.rabbitmq.reply-to", "producer", False),
    ]
    for published in publishing:
        (booked,) = children(spans, published.span_id)
        assert (booked.name, booked.kind, booked.service) == (
            "process accounting",
            "consumer",
            "keyway-accounting",
        )
    assert len(publishing) == 2
    assert {span.service for span in stages} == {"keyway-generation"}
    assert_calls_are_described(named(stages, f"chat {MODEL}"), traced)
    await assert_the_wait_is_seen(traced, named(stages, "reserve key"), first_id)
    assert_nothing_is_told(traced, spans, result)
    assert_the_log_names_the_trace(traced, process, result.request_id)


def assert_calls_are_described(calls: list[Span], traced: Traced) -> None:
    port = int(traced.world.simulator.url.rpartition(":")[2])
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.temperature": 0.5,
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    refused, answered = calls
    assert refused.attributes == common | {
        "keyway.key": "Bad",
        "keyway.outcome": "auth_failed",
        "http.response.status_code": 401,
        "error.type": "invalid_api_key",
    }
    said = {name: value for name, value in answered.attributes.items() if name not in common}
    assert said.pop("gen_ai.response.id").startswith("chatcmpl-")
    assert said.pop("gen_ai.response.model").startswith(MODEL)
    assert said.pop("gen_ai.usage.input_tokens") > 0
    assert said.pop("gen_ai.usage.output_tokens") > 0
    assert said == {
        "keyway.key": "Good",
        "keyway.outcome": "ok",
        "http.response.status_code": 200,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
    }


async def assert_the_wait_is_seen(traced: Traced, reservations: list[Span], first_id: str) -> None:
    """The second reservation waited until the call of the first request was over."""
    at_once, waited = reservations
    (held,) = [
        span for span in await traced.collector.trace(first_id, SPANS_OF_ONE_ATTEMPT) if span.kind == "client"
    ]
    assert at_once.attributes["keyway.key"] == "Bad"
    assert waited.attributes["keyway.key"] == "Good"
    assert waited.start < held.end <= waited.end


def assert_nothing_is_told(traced: Traced, spans: list[Span], result: GenerationResult) -> None:
    answer = (result.response or {})["choices"][0]["message"]["content"]
    assert len(answer) > 10
    for secret in (PROMPT, answer, *traced.world.api_keys, *map(str, secrets_of(traced.world))):
        assert secret not in repr(spans)


def secrets_of(world: World) -> list[str]:
    return [token.get_secret_value() for token in world.tokens.values()]


def assert_the_log_names_the_trace(traced: Traced, process: Span, request_id: str) -> None:
    (line,) = [
        event
        for event in traced.worker.events()
        if event["event"] == "request_finished" and event["request_id"] == request_id
    ]
    assert (line["automation_id"], line["trace_id"], line["span_id"]) == (
        traced.bot,
        process.trace_id,
        process.span_id,
    )


async def test_the_worker_begins_a_trace_where_the_automation_did_not(traced: Traced) -> None:
    async with traced.world.client(traced.open_bot) as keyway:
        result = await ask(keyway)

    async def begun() -> bool:
        return any(
            span.attributes.get("keyway.request_id") == result.request_id for span in traced.collector.spans
        )

    await eventually(begun, "the span of the request")
    (process,) = [
        span
        for span in traced.collector.spans
        if span.attributes.get("keyway.request_id") == result.request_id
    ]
    spans = await traced.collector.trace(process.trace_id, SPANS_OF_ONE_ATTEMPT)
    assert process.parent_id == ""
    assert len(spans) == SPANS_OF_ONE_ATTEMPT
    assert len(named(spans, "process accounting")) == 1


async def test_prompts_and_answers_are_in_spans_where_that_is_switched_on(traced: Traced) -> None:
    trace_id, traceparent = new_trace()
    async with traced.world.client(traced.open_bot) as keyway:
        result = await ask(keyway, traceparent=traceparent)
    (call,) = [
        span for span in await traced.collector.trace(trace_id, SPANS_OF_ONE_ATTEMPT) if span.kind == "client"
    ]
    answer = (result.response or {})["choices"][0]["message"]["content"]
    asked = [{"role": "user", "parts": [{"type": "text", "content": PROMPT}]}]
    assert json.loads(call.attributes["gen_ai.input.messages"]) == asked
    said = {"role": "assistant", "parts": [{"type": "text", "content": answer}], "finish_reason": "stop"}
    assert json.loads(call.attributes["gen_ai.output.messages"]) == [said]
    assert call.service == "open"
    assert not any(api_key.encode() in traced.collector.raw for api_key in traced.world.api_keys)


async def test_of_a_trace_that_the_automation_does_not_keep_nothing_is_exported(traced: Traced) -> None:
    unkept_id, unkept = new_trace(flags="00")
    kept_id, kept = new_trace()
    async with traced.world.client(traced.open_bot) as keyway:
        await ask(keyway, traceparent=unkept)
        await ask(keyway, traceparent=kept)
    await traced.collector.trace(kept_id, SPANS_OF_ONE_ATTEMPT)
    assert traced.collector.of(unkept_id) == []


async def test_the_spans_of_a_stream_begin_with_its_call_and_end_with_its_reply(traced: Traced) -> None:
    trace_id, traceparent = new_trace()
    messages = [{"role": "user", "content": PROMPT}]
    async with (
        traced.world.client(traced.open_bot) as keyway,
        keyway.stream("/chat/completions", model=MODEL, messages=messages, traceparent=traceparent) as stream,
    ):
        async for _ in stream:
            pass
    spans = await traced.collector.trace(trace_id, SPANS_OF_ONE_ATTEMPT)
    (call,) = [span for span in spans if span.kind == "client"]
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.attributes["gen_ai.usage.output_tokens"] > 0
    assert len(spans) == SPANS_OF_ONE_ATTEMPT


async def test_without_an_answer_from_the_collector_requests_are_done_and_the_worker_stops(
    traced: Traced,
) -> None:
    async with traced.world.client(traced.lone_bot) as keyway:
        results = await asyncio.gather(*(ask(keyway) for _ in range(100)))
    assert {result.status for result in results} == {"succeeded"}
    assert await traced.lone_worker.stop() == 0
    ends = [event["event"] for event in traced.lone_worker.events()]
    assert ends.index("worker_stopped") < ends.index("spans_dropped")
