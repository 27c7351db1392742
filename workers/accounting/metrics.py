"""What accounting counts for Prometheus of what it writes into the ledger (docs/metrics.md)."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from prometheus_client import Counter, Histogram

from contracts import names
from infra.metrics import OTHER, Children, Exposition
from infra.money import NANO
from infra.mongo import Document

#: Upper bounds, in seconds: accounting keeps up within moments, or has been away.
LAGS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
#: Types of events that are told of one by one.
TYPES = frozenset({names.USAGE_RECORDED, names.USAGE_REPORTED, names.HEARTBEAT})


class LedgerMetrics:
    """Counts the rows that one process books; only the active consumer books any."""

    def __init__(self, exposition: Exposition) -> None:
        """Take where to register."""
        registry = exposition.registry
        self._rows = Children(
            Counter(
                "keyway_ledger_rows_total",
                "Rows that were added to the ledger.",
                ["source", "outcome"],
                registry=registry,
            )
        )
        self._replaced = Counter(
            "keyway_ledger_rows_replaced_total",
            "Rows that were taken out for one that says more.",
            registry=registry,
        )
        self._tokens = Children(
            Counter("keyway_ledger_tokens_total", "Tokens of added rows.", ["source"], registry=registry)
        )
        self._cost = Children(
            Counter(
                "keyway_ledger_cost_usd_total", "Cost of added rows, in USD.", ["source"], registry=registry
            )
        )
        self._refused = Children(
            Counter(
                "keyway_ledger_events_refused_total",
                "Events that were dead-lettered.",
                ["type"],
                registry=registry,
            )
        )
        self._lag = Histogram(
            "keyway_ledger_lag_seconds",
            "From the end of a worker's attempt to its booking.",
            registry=registry,
            buckets=LAGS,
        )

    def booked(self, added: Sequence[Document], replaced: int, at: datetime) -> None:
        """Count a batch that is in the ledger.

        Args:
            added: its new rows.
            replaced: how many rows it took out.
            at: when it was written, on MongoDB's clock.
        """
        rows: dict[tuple[str, str], int] = defaultdict(int)
        tokens: dict[str, int] = defaultdict(int)
        costs: dict[str, int] = defaultdict(int)
        for row in added:
            source = row["source"]
            rows[source, row["outcome"]] += 1
            tokens[source] += row["total_tokens"]
            costs[source] += row["cost_nanousd"]
            # A lease's rows bear the time of its grant.
            if source == "worker":
                self._lag.observe(max(0.0, (at - row["occurred_at"]).total_seconds()))
        for labels, count in rows.items():
            self._rows[labels].inc(count)
        for source, count in tokens.items():
            self._tokens[source,].inc(count)
            self._cost[source,].inc(costs[source] / NANO)
        self._replaced.inc(replaced)

    def refused(self, event_type: str | None) -> None:
        """Count an event that was dead-lettered."""
        self._refused[event_type if event_type in TYPES else OTHER,].inc()
