"""What a leasing worker counts for Prometheus (docs/metrics.md)."""

from prometheus_client import Counter

from infra.metrics import Children, Exposition

#: How requests for a key end beside error codes and `undelivered`.
LENT, REPEATED = "lent", "repeated"


class LeaseMetrics:
    """The requests for keys of one leasing worker."""

    def __init__(self, exposition: Exposition) -> None:
        """Take where to register."""
        self._requests = Children(
            Counter(
                "keyway_lease_requests_total",
                "Requests for a key of one's own, by how they ended.",
                ["automation", "outcome"],
                registry=exposition.registry,
            )
        )

    def ended(self, automation_id: str, outcome: str) -> None:
        """Count a request that was answered."""
        self._requests[automation_id, outcome].inc()
