"""How large a Keyway has to be: a calculation from measured costs, for docs/scaling.md.

    python -m tests.bench.capacity [--automations 1000] [--requests-per-s 200] [--latency-s 8] …

`--help` lists what may be asked. What it knows was measured on one kind of machine (docs/scaling.md says
which): measure yours with `python -m tests.bench.footprint`, and change `Measured`.
"""

import argparse
import math
import sys
from dataclasses import asdict, dataclass, fields

KB, MB, GB = 1e3, 1e6, 1e9
DAY_S = 86_400
#: Characters of a token, and what JSON adds.
BYTES_A_TOKEN = 5.0
#: How far a core is loaded at the peak; the rest is for bursts, and for a member that is gone.
SHARE = 0.6
#: Members of the RabbitMQ cluster and of the replica set.
MEMBERS = 3
#: Cores that a MongoDB primary, or a RabbitMQ node, is given at most before there is a second cell.
MOST_CORES = 16.0
#: Lanes of one cell: quorum queues elect leaders one by one when a node goes.
MOST_AUTOMATIONS = 1_000


@dataclass(frozen=True, slots=True)
class Measured:
    """What a request costs each part; `python -m tests.bench.footprint` prints these."""

    worker_ms: float = 0.77
    accounting_ms: float = 0.18
    mongod_ms: float = 0.45
    #: Of one node; in a cluster each writes every message, and so takes about as much.
    rabbitmq_ms: float = 0.51
    worker_mb: float = 117
    #: A worker's memory for a call in flight, without its request and its answer.
    call_in_flight_kb: float = 17
    ledger_row: float = 646
    ledger_row_indexes: float = 293
    ledger_row_on_disk: float = 107
    #: Without the answer, which is stored encrypted, and so can't be compressed.
    journal_entry: float = 1142
    journal_entry_indexes: float = 178
    rabbitmq_mb: float = 158
    #: 1,000 quorum queues with a consumer each took 90 MB; an automation has a lane, and may have leases.
    queue_kb: float = 90
    #: A connection of an automation's program, with its channel and its reply queue.
    connection_kb: float = 95


MEASURED = Measured()


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of it."""

    #: Automations, each with a lane of its own.
    automations: int = 1000
    #: Programs of an automation that are connected at a time.
    programs: int = 2
    #: Requests a second of all automations together, at the peak.
    requests_per_s: float = 200.0
    #: The same, on the average of a day, as a share of the peak.
    average_share: float = 0.3
    #: Seconds that the provider takes for an answer.
    latency_s: float = 8.0
    #: Calls of a request: more than one where keys fail or are refused.
    attempts: float = 1.05
    #: Tokens of a request and of its answer.
    prompt_tokens: int = 1500
    completion_tokens: int = 500
    #: Seconds for which results are kept (KEYWAY_RESULT_TTL_S).
    result_ttl_s: int = 3600
    #: Days of the ledger that stay in the database.
    ledger_days: int = 400
    #: Provider calls in flight in one worker (KEYWAY_MAX_IN_FLIGHT).
    max_in_flight: int = 1000


@dataclass(frozen=True, slots=True)
class Size:
    """What it takes, for one cell; servers are counted once, of which there are `MEMBERS`."""

    cells: int
    calls_in_flight: float
    workers: int
    worker_mb: float
    accounting_share: float
    rabbitmq_cores: float
    rabbitmq_gb: float
    mongo_cores: float
    mongo_gb: float
    mongo_disk_gb: float


def cells(demand: Demand, measured: Measured = MEASURED) -> int:
    """Into how many independent Keyways the automations have to be divided.

    One cell has one active accounting process, one primary, and the lanes that a RabbitMQ cluster moves soon.
    """
    rate = demand.requests_per_s
    bounds = (
        demand.automations / MOST_AUTOMATIONS,
        rate * demand.attempts * measured.accounting_ms / 1000 / SHARE,
        rate * demand.attempts * measured.mongod_ms / 1000 / SHARE / MOST_CORES,
        rate * measured.rabbitmq_ms / 1000 / SHARE / MOST_CORES,
    )
    return max(1, math.ceil(max(bounds)))


def size(demand: Demand, measured: Measured = MEASURED) -> Size:
    """What one of the cells takes."""
    number = cells(demand, measured)
    rate = demand.requests_per_s / number
    automations = math.ceil(demand.automations / number)
    in_flight = rate * demand.attempts * demand.latency_s
    by_cpu = rate * demand.attempts * measured.worker_ms / 1000 / SHARE
    by_calls = in_flight / (demand.max_in_flight * SHARE)
    # One more than are needed, and never a single one.
    workers = max(2, math.ceil(max(by_cpu, by_calls)) + 1)
    answer = demand.completion_tokens * BYTES_A_TOKEN
    request = demand.prompt_tokens * BYTES_A_TOKEN
    journal = (measured.journal_entry + answer + measured.journal_entry_indexes) * rate * demand.result_ttl_s
    rows = rate * demand.average_share * demand.attempts * DAY_S
    ledger_disk = (measured.ledger_row_on_disk + measured.ledger_row_indexes) * rows * demand.ledger_days
    hot_ledger = (measured.ledger_row + measured.ledger_row_indexes) * rows
    queues = automations * 2 * measured.queue_kb * KB
    connections = automations * demand.programs * measured.connection_kb * KB
    # A minute's requests, should workers be away for so long.
    waiting = rate * 60 * request
    return Size(
        cells=number,
        calls_in_flight=in_flight,
        workers=workers,
        worker_mb=measured.worker_mb
        + in_flight / workers * (measured.call_in_flight_kb * KB + request + answer) / MB,
        accounting_share=rate * demand.attempts * measured.accounting_ms / 1000,
        rabbitmq_cores=rate * measured.rabbitmq_ms / 1000 / SHARE,
        # Memory beyond its watermark of 0.6 blocks who publishes.
        rabbitmq_gb=(measured.rabbitmq_mb * MB + queues + connections + waiting) / SHARE / GB,
        mongo_cores=rate * demand.attempts * measured.mongod_ms / 1000 / SHARE,
        # What is used all day fits into WiredTiger's cache, which is half of the memory.
        mongo_gb=max(2.0, 2 * (journal + hot_ledger) / GB),
        mongo_disk_gb=(journal * 2 + ledger_disk) / GB,
    )


def table(demand: Demand, found: Size) -> str:
    """What was asked and what it takes, for people."""
    asked = [f"{name:<20}{value:>12,}" for name, value in asdict(demand).items()]
    lines = [
        ("cells", f"{found.cells}", "of all automations; the rest is of one"),
        ("calls in flight", f"{found.calls_in_flight:,.0f}", "at the peak"),
        ("workers", f"{found.workers}", f"one core and {found.worker_mb:,.0f} MB each"),
        ("accounting", f"{found.accounting_share:.0%}", "of the one core of the active process"),
        (
            "RabbitMQ",
            f"{found.rabbitmq_cores:.1f}",
            f"cores, {found.rabbitmq_gb:.1f} GB, {MEMBERS} such nodes",
        ),
        ("MongoDB", f"{found.mongo_cores:.1f}", f"cores, {found.mongo_gb:.1f} GB, {MEMBERS} such members"),
        (
            "MongoDB's disk",
            f"{found.mongo_disk_gb:,.0f}",
            f"GB of each member after {demand.ledger_days} days",
        ),
    ]
    return "\n".join([*asked, "", *(f"{name:<20}{value:>12}  {what}" for name, value, what in lines)])


#: What docs/scaling.md shows.
EXAMPLES = (
    Demand(automations=20, requests_per_s=5),
    Demand(automations=200, requests_per_s=50),
    Demand(automations=1000, requests_per_s=200),
    Demand(automations=1000, requests_per_s=1000),
    Demand(automations=5000, requests_per_s=2000),
)


def examples() -> str:
    """The table of docs/scaling.md."""
    columns = (
        "automations | requests/s | cells | in a cell: workers | accounting | RabbitMQ, 3 of | MongoDB, 3 of"
    )
    head = f"| {columns} |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for demand in EXAMPLES:
        found = size(demand)
        lines.append(
            f"| {demand.automations:,} | {demand.requests_per_s:,.0f} | {found.cells} "
            f"| {found.workers} of {found.worker_mb:,.0f} MB | {found.accounting_share:.0%} of a core "
            f"| {found.rabbitmq_cores:.1f} cores, {found.rabbitmq_gb:.1f} GB "
            f"| {found.mongo_cores:.1f} cores, {found.mongo_gb:.0f} GB, disk {found.mongo_disk_gb:,.0f} GB |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.capacity", description="How large a Keyway has to be."
    )
    for field in fields(Demand):
        default = field.default
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--examples", action="store_true", help="print the table of docs/scaling.md instead")
    options = vars(parser.parse_args(arguments))
    if options.pop("examples"):
        sys.stdout.write(examples() + "\n")
    else:
        demand = Demand(**options)
        sys.stdout.write(table(demand, size(demand)) + "\n")


if __name__ == "__main__":
    main()
