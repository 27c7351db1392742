"""Probes: asks a provider whether it takes a key, with `GET /models`, which costs nothing.

A key that stopped is probed by whichever worker comes first; the probe bypasses selection and limits. So is
one that is still `active`, where an automation that leased it says that the provider refuses it.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

import httpx2
import structlog
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from pydantic import SecretStr

from infra.errors import VaultError
from infra.mongo import Document, Mongo, PyMongoError, ReturnDocument
from infra.vault import Sealed, Vault
from workers.keys.checks import claim_check
from workers.keys.probe_schedule import INTERVALS_S
from workers.keys.registry import open_secret
from workers.keys.status import CHANGE_FIELDS, StatusChange, change_status

log = structlog.get_logger()

PROBE_TIMEOUT_S = 15.0
#: How often to look for a key that is due, in seconds.
LOOK_S = 1.0
ACTOR = "probe"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether the provider takes the key, and in one line why not."""

    ok: bool
    reason: str
    #: Whether the provider says that it is the key which it does not take.
    is_refusal: bool = False


async def probe(base_url: str, api_key: SecretStr) -> ProbeResult:
    """Ask once; it never raises for what a provider does.

    Args:
        base_url: the provider's address, up to and with `/v1`.
        api_key: the key to ask with.
    """
    async with AsyncOpenAI(
        api_key=api_key.get_secret_value(), base_url=base_url, max_retries=0, timeout=PROBE_TIMEOUT_S
    ) as client:
        try:
            await client.get("/models", cast_to=httpx2.Response)
        except APIStatusError as error:
            code = str(error.code or error.type or "no code")
            reason = f"the provider answers {error.status_code} {code}"
            return ProbeResult(ok=False, reason=reason, is_refusal=error.status_code in {401, 403})
        except APIConnectionError as error:
            return ProbeResult(ok=False, reason=f"no connection: {type(error.__cause__ or error).__name__}")
    return ProbeResult(ok=True, reason="the provider takes the key")


class Prober:
    """Brings keys back that stopped, when their provider takes them again."""

    def __init__(self, mongo: Mongo, vault: Vault) -> None:
        """Take the database and what opens the keys' secrets."""
        self._mongo = mongo
        self._vault = vault
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look for keys that are due, from now on."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; a probe that is under way is repeated by another worker, an interval later."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def probe_due(self) -> int:
        """Probe every key that is due, and check those that are in doubt.

        Returns:
            How many were asked of.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        due = []
        while (key := await self._claim()) is not None:
            due.append(key)
        doubtful = []
        while (key := await claim_check(self._mongo)) is not None:
            doubtful.append(key)
        await asyncio.gather(*map(self._probe, due), *map(self._check, doubtful))
        return len(due) + len(doubtful)

    async def _run(self) -> None:
        while True:
            try:
                await self.probe_due()
            except PyMongoError as error:
                log.warning("probes_delayed", error=type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def _claim(self) -> Document | None:
        """Take a key that is due; its next probe is twice as far off, should this one come to nothing."""
        longest = {
            "$switch": {
                "branches": [
                    {"case": {"$eq": ["$probe.cause", cause]}, "then": most}
                    for cause, (_, most) in INTERVALS_S.items()
                ],
                "default": "$probe.interval_s",
            }
        }
        interval_s = {"$min": [{"$multiply": [2, "$probe.interval_s"]}, longest]}
        at = {"$add": ["$$NOW", {"$multiply": [1000, interval_s]}]}
        claimed: Document | None = await self._mongo.keys.find_one_and_update(
            {
                "probe.at": {"$ne": None},
                "status": {"$in": ["error", "exhausted"]},
                "$expr": {"$lte": ["$probe.at", "$$NOW"]},
            },
            [{"$set": {"probe.interval_s": interval_s, "probe.at": at}}],
            projection={**CHANGE_FIELDS, "base_url": 1, "secret": 1},
            return_document=ReturnDocument.AFTER,
        )
        return claimed

    async def _check(self, key: Document) -> None:
        """Stop an active key if the provider refuses it; whatever else it says, calls will tell."""
        result = await self._ask(key)
        if result.is_refusal:
            at = await self._mongo.server_time()
            change = StatusChange("error", result.reason, None, ACTOR, at, "refused")
            await self._mongo.transaction(partial(change_status, self._mongo, key, change))

    async def _ask(self, key: Document) -> ProbeResult:
        try:
            secret = open_secret(
                self._vault, key["automation_id"], key["_id"], Sealed.from_document(key["secret"])
            )
            result = await probe(key["base_url"], secret)
        except VaultError as error:
            result = ProbeResult(ok=False, reason=str(error))
        log.info("key_probed", key_id=key["_id"], alias=key["alias"], ok=result.ok, reason=result.reason)
        return result

    async def _probe(self, key: Document) -> None:
        result = await self._ask(key)
        at = await self._mongo.server_time()
        if result.ok:
            reason = "the provider takes it again (GET /models)"
            change = StatusChange("active", reason, None, ACTOR, at, half_open=True)
            await self._mongo.transaction(partial(change_status, self._mongo, key, change))
            return
        last = {"probe.last_at": at, "probe.last_reason": result.reason}
        await self._mongo.keys.update_one({"_id": key["_id"], "status": key["status"]}, {"$set": last})
