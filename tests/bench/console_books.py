"""Books of a month for measuring the console: automations, keys, ledger rows, and the totals of them."""

import random
import secrets
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from infra.mongo import Document, Mongo
from infra.totals import SUMMED, total_id
from infra.vault import Vault
from workers.accounting.totals import subjects, summands
from workers.keys.registry import secret_context

DAYS = 30
USERS = 20_000
MODELS = ("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-5-mini", "text-embedding-3-small")
OUTCOMES = (*["ok"] * 95, "rate_limited", "rate_limited", "server_error", "timeout", "rejected")
BATCH = 20_000


def automation_ids(count: int) -> list[str]:
    return [f"automation-{number:04}" for number in range(count)]


async def seed(mongo: Mongo, vault: Vault, *, automations: int, keys: int, rows: int) -> None:
    """Fill an empty database; the totals are the sums of the rows."""
    draw = random.Random(1)  # no secret
    now = datetime.now(UTC)
    ids = automation_ids(automations)
    common: Document = {
        "enabled": True, "deadline_s": 600, "call_timeout_s": 300, "max_in_flight": None,
        "allow_leases": False, "created_at": now,
    }  # fmt: skip
    await mongo.automations.insert_many([{"_id": automation, **common} for automation in ids])
    made = [_key(vault, ids[number % automations], number, now) for number in range(keys)]
    await mongo.keys.insert_many(made)
    by_automation: dict[str, list[Document]] = defaultdict(list)
    for key in made:
        by_automation[key["automation_id"]].append(key)
    totals: dict[str, Document] = {}
    batch: list[Document] = []
    for row in _rows(draw, now, by_automation, rows):
        _add(totals, row)
        batch.append(row)
        if len(batch) == BATCH:
            await mongo.usage.insert_many(batch, ordered=False)
            batch = []
    if batch:
        await mongo.usage.insert_many(batch, ordered=False)
    documents = list(totals.values())
    for start in range(0, len(documents), BATCH):
        await mongo.usage_daily.insert_many(documents[start : start + BATCH], ordered=False)


def _key(vault: Vault, automation_id: str, number: int, now: datetime) -> Document:
    key_id = f"key-{number:016x}"
    sealed = vault.seal(secrets.token_bytes(32), secret_context(automation_id, key_id))
    return {
        "_id": key_id, "automation_id": automation_id, "alias": f"Key {number:05}", "tier": number % 3,
        "base_url": "https://api.openai.com/v1", "secret": sealed.document(),
        "fingerprint": secrets.token_hex(32), "last_four": f"{number:04}",
        "limits": {"requests_per_minute": 500, "tokens_per_minute": 90_000,
                   "tokens_per_day": None, "max_in_flight": None},
        "status": "active", "status_reason": "added", "status_until": None, "status_since": now,
        "status_actor": "bench", "history": [], "created_at": now,
    }  # fmt: skip


def _rows(
    draw: random.Random, now: datetime, keys: dict[str, list[Document]], count: int
) -> Iterator[Document]:
    automations = list(keys)
    span_ms = DAYS * 86_400_000
    for number in range(count):
        # Few automations are busy, and most are not.
        automation_id = automations[int(len(automations) * draw.random() ** 3)]
        key = draw.choice(keys[automation_id])
        at = now - timedelta(milliseconds=span_ms * number // count)
        outcome = draw.choice(OUTCOMES)
        prompt, completion = draw.randrange(1, 2000), draw.randrange(1, 800) if outcome == "ok" else 0
        yield {
            "_id": f"{automation_id}/r-{number}:1", "event_id": f"r-{number}:1", "request_id": f"r-{number}",
            "automation_id": automation_id, "user_id": f"user-{int(USERS * draw.random() ** 2)}",
            "key_id": key["_id"], "key_alias": key["alias"], "path": "/chat/completions",
            "model": draw.choice(MODELS), "outcome": outcome, "http_status": 200, "error_code": None,
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "cached_tokens": 0, "reasoning_tokens": 0, "cost_nanousd": prompt * 150 + completion * 600,
            "price_known": True, "tokens_estimated": False, "latency_ms": draw.randrange(200, 3000),
            "reserved_tokens": 2000, "source": "worker", "occurred_at": at, "recorded_at": at,
            "day": at.date().isoformat(),
        }  # fmt: skip


def _add(totals: dict[str, Document], row: Document) -> None:
    added = summands(row)
    for dimension, subject in subjects(row):
        identity = total_id(dimension, row["day"], row["automation_id"], subject)
        total = totals.get(identity)
        if total is None:
            total = totals[identity] = {
                "_id": identity, "dimension": dimension, "day": row["day"],
                "automation_id": row["automation_id"], "subject": subject,
                "label": row["key_alias"] if dimension == "key" else subject, **dict.fromkeys(SUMMED, 0),
            }  # fmt: skip
        for name, value in added.items():
            total[name] += value
