"""What a generation worker counts and times for Prometheus (docs/metrics.md)."""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from contracts.messages import Outcome
from infra.metrics import Children, Exposition, ModelNames
from infra.money import NANO
from workers.generation.reading import Envelope
from workers.generation.result import AttemptRecord, Progress
from workers.keys.pool import Reserved
from workers.keys.selection import Later, Refusal

#: How requests end beside `succeeded` and the error codes: answered from the journal; nobody took the stream.
REPEAT, CANCELLED = "repeated", "cancelled"
#: Upper bounds of histograms, in seconds: what may be milliseconds, and a deadline's length.
WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
CALLS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
OVERHEADS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)


class RequestMetrics:
    """The requests, attempts and reservations of one worker.

    The times of a request add up: in all = in the queue + for keys + at the provider + between attempts
    + overhead.
    """

    def __init__(self, exposition: Exposition) -> None:
        """Take where to register."""
        registry = exposition.registry
        self._registry = registry
        self._models = ModelNames()
        self._requests = Children(
            Counter(
                "keyway_requests_total",
                "Requests that ended, by how.",
                ["automation", "outcome"],
                registry=registry,
            )
        )
        self._attempts = Children(
            Counter(
                "keyway_attempts_total",
                "Calls to the provider, by key and by how they ended.",
                ["automation", "key", "outcome"],
                registry=registry,
            )
        )
        self._tokens = Children(
            Counter(
                "keyway_tokens_total",
                "Tokens of attempts; cached ones are among the prompt's, reasoning among the completion's.",
                ["automation", "model", "type"],
                registry=registry,
            )
        )
        self._cost = Children(
            Counter(
                "keyway_cost_usd_total",
                "What attempts cost, in USD.",
                ["automation", "model"],
                registry=registry,
            )
        )
        self._unpriced = Children(
            Counter(
                "keyway_unpriced_attempts_total",
                "Attempts without a known price.",
                ["automation", "model"],
                registry=registry,
            )
        )
        self._reservations = Children(
            Counter(
                "keyway_reservations_total",
                "Asks for a key, by what came of them.",
                ["result"],
                registry=registry,
            )
        )
        self._total = Histogram(
            "keyway_request_seconds",
            "From publishing to the answer, of requests that ended.",
            registry=registry,
            buckets=WAITS,
        )
        self._queue = Children(
            Histogram(
                "keyway_request_queue_seconds",
                "From publishing to a worker's receipt.",
                ["automation"],
                registry=registry,
                buckets=WAITS,
            )
        )
        self._key_wait = Children(
            Histogram(
                "keyway_request_key_wait_seconds",
                "Waiting for keys, in a worker.",
                ["automation"],
                registry=registry,
                buckets=WAITS,
            )
        )
        self._provider = Children(
            Histogram(
                "keyway_request_provider_seconds",
                "At the provider, over all attempts of a request.",
                ["model"],
                registry=registry,
                buckets=CALLS,
            )
        )
        self._back_off = Histogram(
            "keyway_request_back_off_seconds",
            "Pauses after failures that are the provider's, of requests that had some.",
            registry=registry,
            buckets=WAITS,
        )
        self._overhead = Histogram(
            "keyway_request_overhead_seconds",
            "What Keyway itself took: all but waits, pauses and the provider.",
            registry=registry,
            buckets=OVERHEADS,
        )

    def watch(self, *, in_hand: Callable[[], float], in_flight: Callable[[], float]) -> None:
        """Tell with each scrape how many requests are in hand, and how many calls are reserved."""
        gauge = Gauge("keyway_requests_in_hand", "Requests that are being done.", registry=self._registry)
        gauge.set_function(in_hand)
        gauge = Gauge(
            "keyway_calls_in_flight", "Calls that are reserved and not settled.", registry=self._registry
        )
        gauge.set_function(in_flight)

    def ended(self, automation_id: str, outcome: str) -> None:
        """Count a request that ended without times to tell: a repeat, a refusal, a client that is gone."""
        self._requests[automation_id, outcome].inc()

    def answered(self, envelope: Envelope, progress: Progress, outcome: str, now: float) -> None:
        """Count and time a request that was answered now."""
        automation_id = envelope.automation_id
        self._requests[automation_id, outcome].inc()
        queue = max(0.0, envelope.received_at - envelope.published_at)
        held = max(0.0, now - envelope.received_at)
        provider = progress.upstream_ms / 1000
        self._total.observe(queue + held)
        self._queue[automation_id,].observe(queue)
        self._key_wait[automation_id,].observe(progress.waited_s)
        if progress.attempts:
            last = progress.attempts[-1]
            self._provider[self._models.label(last.model, answered_for=None),].observe(provider)
        if progress.backed_off_s:
            self._back_off.observe(progress.backed_off_s)
        self._overhead.observe(max(0.0, held - progress.waited_s - progress.backed_off_s - provider))

    def attempt(self, automation_id: str, attempt: AttemptRecord) -> None:
        """Count an attempt that is told to accounting."""
        self._attempts[automation_id, attempt.key_alias, attempt.outcome].inc()
        usage, is_real = attempt.usage, attempt.outcome is Outcome.OK
        label = self._models.label(attempt.model, answered_for=automation_id if is_real else None)
        if not attempt.cost.known:
            self._unpriced[automation_id, label].inc()
        if not usage.total_tokens:
            return
        self._cost[automation_id, label].inc(attempt.cost.nanousd / NANO)
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
            ("cached", usage.cached_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            if count:
                self._tokens[automation_id, label, kind].inc(count)

    def reserved(self, reserved: Reserved) -> None:
        """Count what came of an ask for a key."""
        if isinstance(reserved, Refusal):
            result = reserved.reason.value
        else:
            result = "later" if isinstance(reserved, Later) else "reserved"
        self._reservations[result,].inc()
