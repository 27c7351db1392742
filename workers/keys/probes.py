"""Probes: asks a provider whether it takes a key, with `GET /models`, which costs nothing.

A key that stopped is probed by whichever worker comes first; the probe bypasses selection and limits. So is
one that is still `active`, where an automation that leased it says that the provider refuses it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import aiohttp
import orjson
import structlog
from pydantic import SecretStr

from infra.background_tasks import BackgroundTasks
from infra.errors import UnusableKeyError, VaultError
from infra.mongo import Document, Mongo, PyMongoError
from infra.vault import Sealed, Vault
from workers.keys.checks import DOUBTED, TAKEN
from workers.keys.key_claims import KeyClaims
from workers.keys.probe_schedule import INTERVALS_S
from workers.keys.provider_http import Destination, destination, open_session, read_error
from workers.keys.registry import open_secret
from workers.keys.status import StatusChange, change_status

log = structlog.get_logger()

PROBE_TIMEOUT_S = 15.0
#: How often to look for a key that is due, in seconds.
LOOK_S = 1.0
#: Keys that a worker asks of at the same time.
MOST_AT_ONCE = 64
ACTOR = "probe"
#: Characters of a provider's error code that are told.
LONGEST_CODE = 100


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether the provider takes the key, and in one line why not."""

    ok: bool
    reason: str
    #: Whether the provider says that it is the key which it does not take, or no call can be made with it.
    is_refusal: bool = False


async def probe(base_url: str, api_key: SecretStr, *, proxy_from_environment: bool = False) -> ProbeResult:
    """Ask once; it never raises for what a provider does, or for how a key is stored.

    Args:
        base_url: the provider's address, up to and with `/v1`.
        api_key: the key to ask with.
        proxy_from_environment: whether `HTTPS_PROXY` and its like count.
    """
    try:
        where = destination(base_url, api_key, proxy_from_environment=proxy_from_environment)
        async with asyncio.timeout(PROBE_TIMEOUT_S), open_session(1) as session:
            return await _answer(session, where)
    except UnusableKeyError as error:
        return ProbeResult(ok=False, reason=str(error), is_refusal=True)
    except (aiohttp.ClientError, TimeoutError) as error:
        return ProbeResult(ok=False, reason=f"no connection: {type(error).__name__}")


async def _answer(session: aiohttp.ClientSession, where: Destination) -> ProbeResult:
    url = where.base_url + "/models"
    async with session.get(url, headers=where.headers, allow_redirects=False, proxy=where.proxy) as response:
        status = response.status
        if 200 <= status < 300:
            return ProbeResult(ok=True, reason="the provider takes the key")
        code = _error_code(await read_error(response))
    return ProbeResult(
        ok=False, reason=f"the provider answers {status} {code}", is_refusal=status in {401, 403}
    )


def _error_code(content: bytes) -> str:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    return str(error.get("code") or error.get("type") or "no code")[:LONGEST_CODE]


class Prober:
    """Brings keys back that stopped, when their provider takes them again."""

    def __init__(self, mongo: Mongo, vault: Vault, *, proxy_from_environment: bool = False) -> None:
        """Make a prober that does not run yet.

        Args:
            mongo: where the keys are.
            vault: opens their secrets.
            proxy_from_environment: whether `HTTPS_PROXY` and its like count.
        """
        self._mongo = mongo
        self._vault = vault
        self._proxy_from_environment = proxy_from_environment
        self._claims = KeyClaims(mongo)
        self._looking = BackgroundTasks("prober")
        self._asking = BackgroundTasks("probes")

    async def start(self) -> None:
        """Look for keys that are due, from now on."""
        self._looking.every(LOOK_S, "look", self._look, passes=(PyMongoError,))

    async def close(self) -> None:
        """Stop; a probe that is under way is repeated by another worker, an interval later."""
        await self._looking.close()
        await self._asking.close()

    async def _look(self) -> None:
        """Begin to probe every key that is due, and to check those that are in doubt: none waits for another.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        doubtful = partial(self._claims.take, DOUBTED, TAKEN)
        for claim, ask in ((self._claim, self._probe), (doubtful, self._check)):
            while len(self._asking) < MOST_AT_ONCE and (key := await claim()) is not None:
                self._asking.start("ask", self._alone(ask, key))

    async def _alone(self, ask: Callable[[Document], Awaitable[None]], key: Document) -> None:
        """Whatever is wrong with one key's document is that key's trouble."""
        try:
            await ask(key)
        except PyMongoError as error:
            log.warning("probes_delayed", error=type(error).__name__)
        except Exception:
            log.exception("probe_failed", key_id=key["_id"])

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
        due: Document = {
            "probe.at": {"$ne": None},
            "probe.interval_s": {"$type": "number"},
            "status": {"$in": ["error", "exhausted"]},
            "$expr": {"$lte": ["$probe.at", "$$NOW"]},
        }
        return await self._claims.take(due, [{"$set": {"probe.interval_s": interval_s, "probe.at": at}}])

    async def _check(self, key: Document) -> None:
        """Stop an active key if the provider refuses it; whatever else it says, calls will tell."""
        result = await self._ask(key)
        if result.is_refusal:
            at = await self._mongo.server_time()
            change = StatusChange("error", result.reason, None, ACTOR, at, "refused")
            await self._mongo.transaction(partial(change_status, self._mongo, key, change))

    async def _ask(self, key: Document) -> ProbeResult:
        try:
            sealed = Sealed.from_document(key["secret"])
            secret = open_secret(self._vault, key["automation_id"], key["_id"], sealed)
        except (AttributeError, KeyError, TypeError, VaultError) as error:
            result = ProbeResult(ok=False, reason=f"the key's secret can't be opened: {error}")
        else:
            proxied = self._proxy_from_environment
            result = await probe(key["base_url"], secret, proxy_from_environment=proxied)
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
