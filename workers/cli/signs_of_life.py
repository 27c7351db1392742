"""What people are told of an automation's processes."""

from collections.abc import Sequence
from datetime import datetime

from infra.mongo import Document
from workers.cli.key_facts import moment


def signs_of_life(processes: Sequence[Document], last_heartbeat_at: datetime | None) -> str:
    """What people are told: how many processes, since when, which versions, what is in flight.

    Args:
        processes: those that are alive, as `living` tells of them.
        last_heartbeat_at: the last heartbeat of any process, alive or not.
    """
    if not processes:
        return "never" if last_heartbeat_at is None else f"last seen {moment(last_heartbeat_at)}"
    count = "1 process" if len(processes) == 1 else f"{len(processes)} processes"
    versions = sorted({process["version"] for process in processes})
    return (
        f"{count} since {moment(min(process['started_at'] for process in processes))}, "
        f"version {', '.join(versions)}, {sum(process['in_flight'] for process in processes)} in flight"
    )
