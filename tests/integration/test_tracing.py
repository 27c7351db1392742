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
from tests.collector import Collector, Span, start_collector
from tests.harness import World, eventually, new_world
from workers.keys.key import Limits

PROMPT = "what nobody else may read"
#: Spans come soon.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
CALLER = "b7ad6b7169203331"


@dataclass
class Traced:
    """A Keyway whose accounting and two workers export their spans; the second one with prompts."""

    world: World
    collector: Collector
    bot: str
    open_bot: str


@pytest.fixture(scope="module")
async def traced(backing: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    async with start_collector() as collector, new_world(backing, tmp_path_factory.mktemp("traced")) as world:
        bot, open_bot = await world.add_automation(), await world.add_automation()
        there: dict[str, str] = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **SOON}
        content = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
        await asyncio.gather(
            world.start("accounting", ready="accounting_ready", **there),
            world.start_worker(KEYWAY_LANES=bot, **there),
            world.start_worker(KEYWAY_LANES=open_bot, OTEL_SERVICE_NAME="open", **there, **content),
        )
        yield Traced(world, collector, bot, open_bot)


async def ask(keyway: Keyway, **options: Any) -> GenerationResult:
    messages = [{"role": "user", "content": PROMPT}]
    return await keyway.generate(
        "/chat/completions", model="gpt-4o-mini", messages=messages, temperature=0.5, **options
    )


def new_trace() -> tuple[str, str]:
    """The id of a trace, and the traceparent of its first span."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{CALLER}-01"


def children(spans: list[Span], parent_id: str) -> list[Span]:
    return [span for span in spans if span.parent_id == parent_id]


async def test_one_trace_has_the_queue_the_wait_each_attempt_the_reply_and_the_books(traced: Traced) -> None:
    world, bot = traced.world, traced.bot
    await world.add_key(bot, "Good", {"latency_ms": 3000}, limits=Limits(max_in_flight=1))
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
        await world.script(bot, "Good")
        with use_span(NonRecordingSpan(caller)):
            result = await ask(keyway)
        await first
    assert [(a.key_alias, a.outcome) for a in result.attempts] == [("Bad", "auth_failed"), ("Good", "ok")]

    spans = await traced.collector.trace(trace_id, 12)
    (process,) = children(spans, CALLER)
    lane = f"process requests.{bot}"
    assert (process.name, process.kind, process.service) == (lane, "consumer", "keyway-generation")
    assert [(span.name, span.kind, span.is_error) for span in children(spans, process.span_id)] == [
        ("wait in queue", "internal", False),
        ("reserve key", "internal", False),
        ("chat gpt-4o-mini", "client", True),
        ("publish events", "producer", False),
        ("reserve key", "internal", False),
        ("chat gpt-4o-mini", "client", False),
        ("record result", "internal", False),
        *sorted([("publish events", "producer", False), (f"publish replies.{bot}", "producer", False)]),
    ] or spans
    await assert_attributes(spans, process, result, bot)
    # The second reservation waited for the first request's call to end.
    reserved = [span for span in spans if span.name == "reserve key"][1]
    first_spans = await traced.collector.trace(first_id, 7)
    (held,) = [span for span in first_spans if span.kind == "client"]
    assert reserved.start < held.end <= reserved.end


async def assert_attributes(spans: list[Span], process: Span, result: GenerationResult, bot: str) -> None:
    print(json.dumps([span.__dict__ for span in spans], indent=1))
