"""What the command line tells people of a key."""

from datetime import datetime

from infra.mongo import Document
from workers.keys.facts import TIERS, warnings
from workers.keys.key import Key
from workers.keys.limits import CIRCUIT_FAILURES, UNLIMITED, in_flight_limit, used_in_window, used_today


def facts(document: Document, key: Key, now: float) -> list[list[str]]:
    """What people are told of one key, as rows of a name and a value."""
    limits = key.limits
    requests, tokens = used_in_window(key, now)
    capped = in_flight_limit(key, now)
    health = f"{key.latency_ms:.0f} ms, {key.error_rate:.0%} errors lately"
    if not key.last_used_at:
        health = "not called yet"
    facts = [
        ["status", f"{key.status} since {moment(document['status_since'])}: {key.status_reason}"],
        ["API key", f"…{document['last_four']} at {key.base_url}, tier {TIERS[key.tier].value}"],
        ["requests a minute", _of(requests, limits.requests_per_minute)],
        ["tokens a minute", _of(tokens, limits.tokens_per_minute)],
        ["tokens today", _of(used_today(key, now), limits.tokens_per_day)],
        ["calls in flight", _of(key.held_calls, None if capped >= UNLIMITED else capped)],
        ["health", health],
    ]
    if key.failures_in_a_row:
        state = "circuit open or half-open" if key.failures_in_a_row >= CIRCUIT_FAILURES else "circuit closed"
        facts.append(["failures in a row", f"{key.failures_in_a_row}, {state}"])
    if key.status_until is not None and key.status_until > now:
        facts.append(["until", moment(document["status_until"])])
    if key.probe_at is not None:
        facts.append(["next probe", moment(document["probe"]["at"])])
        if last := document["probe"].get("last_reason"):
            facts.append(["last probe", f"{moment(document['probe']['last_at'])}: {last}"])
    if key.cooled_until > now:
        facts.append(["cooled", f"for {key.cooled_until - now:.0f} s more ({key.cool_reason or 'circuit'})"])
    denied = [model for model, until in key.denied_models.items() if until > now]
    if denied:
        facts.append(["may not use", ", ".join(denied)])
    return facts + [["warning", line] for line in warnings(key, now)]


def _of(used: int, limit: int | None) -> str:
    return f"{used:,}" if limit is None else f"{used:,} of {limit:,}"


def moment(at: datetime) -> str:
    """A time for people, in UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S")
