"""Spans of a request's life, each by a part that does what it does without them, and a span of it.

`process requests.<automation>`, from the delivery to its acknowledgement, has these below it:

- `wait in queue`: from the publish, by the publisher's clock, to the delivery;
- `reserve key`: the wait for a key; again after each attempt that failed;
- `chat <model>` and the like: one attempt at the provider;
- `record result`: in the journal;
- `publish replies.<automation>`: the reply;
- `publish events`: the usage of one attempt, below which comes accounting's own span.
"""

import time
from dataclasses import replace
from functools import partial

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import SecretStr
from typing_extensions import override

from contracts import names
from infra.deliveries import Delivery
from infra.direct_addresses import is_direct
from infra.messaging_spans import consumed, published
from infra.trace_headers import trace_of
from infra.tracing import fail, spanning
from infra.vault import Vault
from workers.generation import genai, genai_content
from workers.generation.answers import Answer, Failure
from workers.generation.attempts import Attempts
from workers.generation.automation import Automation
from workers.generation.chunks import Chunks
from workers.generation.journal import Done, Record
from workers.generation.metrics import RequestMetrics
from workers.generation.parts import Parts
from workers.generation.publishing import Publisher
from workers.generation.reading import Envelope, Request, published_at
from workers.generation.recording import SUCCEEDED
from workers.generation.replies import NobodyWaitsError, Replies
from workers.generation.request import RequestHandler
from workers.generation.result import Error
from workers.generation.upstream import Upstream
from workers.generation.work import LaneFullError, Work
from workers.keys.key import Key
from workers.keys.pool import KeyPool, Reservation, Reserved
from workers.keys.selection import Refusal

TRACER = trace.get_tracer("keyway.generation")
W3C = TraceContextTextMapPropagator()
#: How a delivery ends that has no result; all else goes back to its queue.
ENDS = {LaneFullError: "put_off", NobodyWaitsError: "cancelled"}
HANDED_BACK = "handed_back"


def traced(*, with_content: bool) -> Parts:
    """The parts with spans.

    Args:
        with_content: whether spans of provider calls hold prompts and answers.
    """
    attempts = partial(TracedAttempts, with_content=with_content)
    return Parts(attempts, TracedRequestHandler, TracedPublisher, TracedReplies)


class TracedRequestHandler(RequestHandler):
    """Continues the automation's trace, or begins one, and tells how the request ended."""

    @override
    async def handle(self, message: Delivery, automation: Automation, *, ended: Error | None = None) -> None:
        delivered_at = time.time()
        queue = names.lane_queue(automation.id) if ended is None else names.UNANSWERED_QUEUE
        with TRACER.start_as_current_span(
            f"process {queue}",
            W3C.extract(trace_of(message.headers) or {}),
            SpanKind.CONSUMER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if span.is_recording():
                span.set_attributes({**consumed(message, queue), "keyway.automation": automation.id})
                waited = TRACER.start_span(
                    "wait in queue", start_time=_nanoseconds(published_at(message, delivered_at))
                )
                waited.end(_nanoseconds(delivered_at))
            for name in names.TRACE_HEADERS:
                message.headers.pop(name, None)
            message.headers.update(_here())
            await super().handle(message, automation, ended=ended)

    @override
    async def _do(
        self,
        message: Delivery,
        request: Request,
        automation: Automation,
        ended: Error | None,
    ) -> None:
        span = trace.get_current_span()
        span.set_attribute("keyway.request_id", request.envelope.request_id)
        try:
            await super()._do(message, request, automation, ended)
        except BaseException as error:
            span.set_attribute("keyway.status", ENDS.get(type(error), HANDED_BACK))
            raise

    @override
    async def _repeat(self, message: Delivery, request: Request, done: Done, *, is_dead: bool) -> None:
        trace.get_current_span().set_attribute("keyway.replayed", True)  # noqa: FBT003  # OpenTelemetry's API
        await super()._repeat(message, request, done, is_dead=is_dead)

    @override
    async def _record(self, work: Work, record: Record) -> bool:
        _tell_status(trace.get_current_span(), record.status)
        with spanning(TRACER, "record result"):
            return await super()._record(work, record)

    @override
    async def _refuse(self, message: Delivery, envelope: Envelope, error: Error, *, is_dead: bool) -> None:
        _tell_status(trace.get_current_span(), error.code.value)
        await super()._refuse(message, envelope, error, is_dead=is_dead)


class TracedAttempts(Attempts):
    """Tells how long keys were waited for, and of each attempt at the provider."""

    def __init__(
        self,
        pool: KeyPool,
        upstream: Upstream,
        vault: Vault,
        metrics: RequestMetrics | None = None,
        *,
        with_content: bool,
    ) -> None:
        super().__init__(pool, upstream, vault, metrics)
        self._with_content = with_content

    @override
    async def reserve(
        self, request: Request, max_in_flight: int | None, avoid: frozenset[str] = frozenset()
    ) -> Reserved:
        with spanning(TRACER, "reserve key") as span:
            reserved = await super().reserve(request, max_in_flight, avoid)
            match reserved:
                case Reservation(key=key, tokens=tokens):
                    span.set_attributes({"keyway.key": key.alias, "keyway.reserved_tokens": tokens})
                case Refusal(reason=reason):
                    fail(span, reason)
                case _:
                    span.set_attribute("keyway.status", ENDS[LaneFullError])
            return reserved

    @override
    async def _ask(
        self, request: Request, key: Key, secret: SecretStr, call_timeout_s: float, chunks: Chunks | None
    ) -> Answer | Failure:
        with spanning(TRACER, genai.span_name(request), SpanKind.CLIENT) as span:
            if not span.is_recording():
                return await super()._ask(request, key, secret, call_timeout_s, chunks)
            span.set_attributes(genai.asked(request, key))
            if self._with_content:
                span.set_attributes(genai_content.of_request(request))
            answer = await super()._ask(request, key, secret, call_timeout_s, chunks)
            if isinstance(answer, Failure):
                span.set_attributes(genai.failed(answer))
                fail(span, genai.error_type(answer))
            else:
                span.set_attributes(genai.answered(answer))
                if self._with_content:
                    span.set_attributes(genai_content.of_answer(answer.document))
            return answer


class TracedReplies(Replies):
    """Tells of each result that is sent; the chunks of a stream are too many."""

    @override
    async def result(self, envelope: Envelope, result: bytes, end: bytes) -> None:
        address = envelope.reply_to
        if address is None:
            return await super().result(envelope, result, end)
        # A direct address is known to whom it was given, and to nobody else.
        queue = names.DIRECT_REPLY_TO if is_direct(address) else address
        name = queue if is_direct(address) else f"replies.{envelope.automation_id}"
        with spanning(TRACER, f"publish {name}", SpanKind.PRODUCER) as span:
            if span.is_recording():
                span.set_attributes(published("", queue, result))
            return await super().result(_from_here(envelope), result, end)


class TracedPublisher(Publisher):
    """Tells of each usage event that is published."""

    @override
    async def usage(self, envelope: Envelope, event: bytes) -> None:
        with spanning(TRACER, f"publish {names.EVENTS_EXCHANGE}", SpanKind.PRODUCER) as span:
            if span.is_recording():
                routing_key = names.event_routing_key(names.USAGE_RECORDED, envelope.automation_id)
                span.set_attributes(published(names.EVENTS_EXCHANGE, routing_key, event))
            await super().usage(_from_here(envelope), event)


def _tell_status(span: Span, status: str) -> None:
    span.set_attribute("keyway.status", status)
    if status != SUCCEEDED:
        fail(span, status)


def _here() -> dict[str, str]:
    """The current span's context, as headers of a message."""
    headers: dict[str, str] = {}
    W3C.inject(headers)
    return headers


def _from_here(envelope: Envelope) -> Envelope:
    """The envelope whose messages follow from the current span."""
    return replace(envelope, trace=_here())


def _nanoseconds(seconds: float) -> int:
    """For a span, which knows no time before the epoch; a publisher may say anything."""
    return max(0, round(seconds * 1e9))
