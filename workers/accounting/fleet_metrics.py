"""The state of the fleet as gauges: read when Prometheus asks, by each accounting process (docs/metrics.md).

Two processes tell the same: queries take the `max` of them.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from contracts import names
from infra.alerts import AlertKind
from infra.metrics import Exposition
from infra.money import NANO
from workers.accounting.fleet import Books, Fleet, FleetReader, Queues
from workers.keys.key import STATUSES

#: A reading is good for so long, in seconds, however often Prometheus asks.
FRESH_S = 2.0


class FleetMetrics(Collector):
    """Tells of the fleet as it was read last."""

    def __init__(self, exposition: Exposition, reader: FleetReader) -> None:
        """Take where to register, and what reads the fleet."""
        self._reader = reader
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._fleet = Fleet()
        exposition.registry.register(self)
        exposition.before_scrape(self._refresh)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The fleet's gauges; of what is not known there are no samples."""
        return families(self._fleet)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Their names, before anything was read."""
        return families(Fleet())

    async def _refresh(self) -> None:
        async with self._reading:
            if time.monotonic() - self._read_at >= FRESH_S:
                self._fleet = await self._reader.read()
                self._read_at = time.monotonic()


def families(fleet: Fleet) -> list[GaugeMetricFamily]:
    """The fleet as Prometheus is told of it."""
    up = _gauge("fleet_up", "Whether what this process tells of the fleet could be read.", "source")
    up.add_metric(["mongodb"], fleet.books is not None)
    up.add_metric(["rabbitmq"], fleet.queues is not None)
    return [up, *_of_queues(fleet.queues), *_of_keys(fleet.books), *_of_automations(fleet.books)]


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"keyway_{name}", documentation, labels=labels)


def _of_queues(queues: Queues | None) -> Iterator[GaugeMetricFamily]:
    waiting = _gauge("lane_waiting", "Requests that wait in a lane.", "automation")
    in_hand = _gauge("lane_in_hand", "Requests of a lane that workers have taken.", "automation")
    oldest = _gauge("lane_oldest_seconds", "For how long the oldest has waited in a lane.", "automation")
    unbooked = _gauge("ledger_waiting", "Events that accounting has not booked.")
    lag = _gauge("ledger_oldest_seconds", "For how long the oldest of them has waited.")
    dead = _gauge("dead_letters", "Messages in the queue `dead`.")
    if queues is not None:
        prefix = names.lane_queue("")
        for name, state in queues.states.items():
            if name.startswith(prefix):
                automation = [name.removeprefix(prefix)]
                age = queues.oldest.get(name)
                waiting.add_metric(automation, state.waiting)
                in_hand.add_metric(automation, state.in_hand)
                oldest.add_metric(automation, 0.0 if age is None else age.seconds)
        if (accounting := queues.states.get(names.ACCOUNTING_QUEUE)) is not None:
            age = queues.oldest.get(names.ACCOUNTING_QUEUE)
            unbooked.add_metric([], accounting.waiting + accounting.in_hand)
            lag.add_metric([], 0.0 if age is None else age.seconds)
        if (letters := queues.states.get(names.DEAD_QUEUE)) is not None:
            dead.add_metric([], letters.waiting + letters.in_hand)
    yield from (waiting, in_hand, oldest, unbooked, lag, dead)


def _of_keys(books: Books | None) -> Iterator[GaugeMetricFamily]:
    key = ("automation", "key")
    status = _gauge("key_status", "1 for the status that a key is in, 0 for the others.", *key, "status")
    used = _gauge("key_utilisation_ratio", "The used fraction of a key's limit.", *key, "limit")
    calls = _gauge("key_reserved_calls", "Calls that are reserved and not settled, leases included.", *key)
    tokens = _gauge("key_reserved_tokens", "Tokens that are reserved for them.", *key)
    latency = _gauge("key_latency_seconds", "How long a key's calls take, smoothed.", *key)
    errors = _gauge("key_error_ratio", "Which part of a key's calls fails, smoothed.", *key)
    pool = _gauge("pool_keys", "Keys of an automation that is enabled.", "automation")
    usable = _gauge("pool_usable_keys", "Those of them that may be called, their limits aside.", "automation")
    if books is not None:
        served = {automation.id: [0, 0] for automation in books.automations if automation.enabled}
        for load in books.keys:
            labels = [load.automation_id, load.alias]
            for name in STATUSES:
                status.add_metric([*labels, name], load.status == name)
            for limit, ratio in load.utilisation.items():
                used.add_metric([*labels, limit], ratio)
            calls.add_metric(labels, load.held_calls)
            tokens.add_metric(labels, load.held_tokens)
            latency.add_metric(labels, load.latency_s)
            errors.add_metric(labels, load.error_ratio)
            if (counts := served.get(load.automation_id)) is not None:
                counts[0] += 1
                counts[1] += load.is_usable
        for automation_id, (all_keys, usable_keys) in served.items():
            pool.add_metric([automation_id], all_keys)
            usable.add_metric([automation_id], usable_keys)
    yield from (status, used, calls, tokens, latency, errors, pool, usable)


def _of_automations(books: Books | None) -> Iterator[GaugeMetricFamily]:
    paused = _gauge("lane_paused", "1 where an operator has paused a lane.", "automation")
    processes = _gauge("automation_processes", "An automation's living processes.", "automation")
    silent = _gauge("automation_silent_seconds", "Since an automation's last heartbeat.", "automation")
    cost = _gauge("cost_today_usd", "Cost of the UTC day by the books, leases included.", "automation")
    budget = ("automation", "scope", "key", "window")
    spent = _gauge("budget_spent_ratio", "The spent fraction of a budget.", *budget)
    soft = _gauge("budget_soft_ratio", "The fraction from which on there is an alert.", *budget)
    limit = _gauge("budget_limit_usd", "A budget.", *budget)
    workers = _gauge("workers_alive", "Generation workers that are alive.")
    alerts = _gauge("alerts_open", "Alerts that are not resolved.", "kind")
    if books is not None:
        for automation in books.automations:
            labels = [automation.id]
            paused.add_metric(labels, automation.paused)
            cost.add_metric(labels, automation.cost_today / NANO)
            processes.add_metric(labels, automation.processes)
            if automation.silent_s is not None and automation.enabled:
                silent.add_metric(labels, automation.silent_s)
        for use in books.budgets:
            labels = [use.automation_id, use.scope, use.key, use.window]
            spent.add_metric(labels, use.spent_ratio)
            soft.add_metric(labels, use.soft_ratio)
            limit.add_metric(labels, use.limit_nanousd / NANO)
        workers.add_metric([], books.workers)
        for kind in AlertKind:
            alerts.add_metric([kind.value], books.alerts.get(kind.value, 0))
    yield from (paused, processes, silent, cost, spent, soft, limit, workers, alerts)
