"""What is kept of a heartbeat."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pytest

from contracts.messages import Heartbeat
from workers.accounting.heartbeats import KNOWN_S, MOST_PROCESSES, Heartbeats, seen_process

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def beat(**changes: object) -> Heartbeat:
    fields = {"version": "1.2.0", "host": "a", "started_at": NOON, "in_flight": 3}
    return Heartbeat.model_validate(fields | changes)


def test_a_process_is_the_same_in_all_of_its_heartbeats() -> None:
    abroad = NOON.astimezone(timezone(timedelta(hours=5)))
    first, later = seen_process("bot", beat()), seen_process("bot", beat(started_at=abroad, in_flight=9))
    assert first["_id"] == later["_id"]
    assert (first["in_flight"], later["in_flight"]) == (3, 9)


@pytest.mark.parametrize(
    ("automation_id", "changes"),
    [("other", {}), ("bot", {"host": "b"}), ("bot", {"started_at": NOON + timedelta(seconds=1)})],
)
def test_another_automation_host_or_start_is_another_process(
    automation_id: str, changes: dict[str, object]
) -> None:
    assert seen_process(automation_id, beat(**changes))["_id"] != seen_process("bot", beat())["_id"]


def test_the_processes_of_one_automation_are_bounded_and_crowd_out_nobody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr("workers.accounting.heartbeats.time.monotonic", lambda: now)
    kept = Heartbeats(cast("Any", None))
    for number in range(3 * MOST_PROCESSES):
        kept.note("noisy", beat(host=f"h{number}"))
    kept.note("quiet", beat())
    assert [process["automation_id"] for process in kept._waiting.values()].count("noisy") == MOST_PROCESSES
    assert seen_process("quiet", beat())["_id"] in kept._waiting
    kept._waiting.clear()
    kept.note("noisy", beat(host="h0"))
    kept.note("noisy", beat(host="new"))
    assert [process["host"] for process in kept._waiting.values()] == ["h0"]
    now += KNOWN_S + 1
    kept.note("noisy", beat(host="new"))
    assert [process["host"] for process in kept._waiting.values()] == ["h0", "new"]
    assert len(kept._known["noisy"]) == 1
