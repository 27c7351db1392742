"""The operator's hand on keys: add, list, switch, remove, re-encrypt. Secrets go in and never come out."""

import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial

from pydantic import SecretStr

from contracts.messages import KeyStatus
from infra.alerts import resolve_alerts
from infra.errors import ConflictError, NotFoundError, PlatformError, VaultError
from infra.mongo import Document, DuplicateKeyError, Mongo, Session
from infra.outbox import announce
from infra.vault import Sealed, Vault
from workers.keys.key import LARGEST_LIMIT, Limits
from workers.keys.provider_address import address_problem, is_sendable
from workers.keys.status import StatusChange, change_status, revoke_leases

DEFAULT_BASE_URL = "https://api.openai.com/v1"
ALIAS = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,100}")
#: Characters of a key of which the last four may be shown.
SHORTEST_SHOWN = 12


def secret_context(automation_id: str, key_id: str) -> str:
    """What a key's ciphertext is bound to, so that it can't be moved to another document."""
    return f"key:{automation_id}:{key_id}"


def open_secret(vault: Vault, automation_id: str, key_id: str, sealed: Sealed) -> SecretStr:
    """Decrypt an API key.

    Raises:
        VaultError: another master key's, changed, or moved.
    """
    context = secret_context(automation_id, key_id)
    try:
        return SecretStr(vault.open(sealed, context).decode())
    except UnicodeDecodeError:
        raise VaultError(f"can't open {context}: it is not a text") from None


def check_new(alias: str, api_key: SecretStr, limits: Limits, base_url: str) -> None:
    """Refuse a key that can't be one.

    Raises:
        PlatformError: a part of it is wrong; which one is said, and never its value.
    """
    value = api_key.get_secret_value()
    if not is_sendable(value):
        raise PlatformError("the API key is empty, or has characters that none has")
    if any(limit is not None and not 1 <= limit <= LARGEST_LIMIT for limit in asdict(limits).values()):
        raise PlatformError("a limit is less than 1, or larger than any that can be kept")
    if not ALIAS.fullmatch(alias):
        raise PlatformError("a key's name has 1 to 100 characters, none of them a control character")
    if (problem := address_problem(base_url)) is not None:
        raise PlatformError(f"the provider's address can't be one: {problem}")


def last_four(api_key: SecretStr) -> str:
    """What may be shown of a key: nothing of one that is so short that it would be most of it."""
    value = api_key.get_secret_value()
    return value[-4:] if len(value) >= SHORTEST_SHOWN else ""


class KeyRegistry:
    """Adds and changes keys; each change leaves its event in the outbox."""

    def __init__(self, mongo: Mongo, vault: Vault | None, actor: str) -> None:
        """Take the database, the vault (needed to add and to re-encrypt only) and who acts."""
        self._mongo = mongo
        self._vault = vault
        self._actor = actor

    async def add(
        self,
        automation_id: str,
        alias: str,
        api_key: SecretStr,
        *,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        base_url: str = DEFAULT_BASE_URL,
        tier: int = 0,
    ) -> str:
        """Add a key.

        Args:
            automation_id: whose it is.
            alias: its name, unique within the automation, such as `Primary`.
            api_key: the provider's API key.
            limits: what it may do.
            base_url: the provider's address, up to and with `/v1`.
            tier: used only while keys of lower tiers have no room; 0 is the first.

        Returns:
            The key's id.

        Raises:
            NotFoundError: there is no such automation.
            ConflictError: the alias is taken, or the same API key is there already.
            PlatformError: the API key, a limit, the alias or the address can't be one.
        """
        vault = self._vault
        if vault is None:
            raise PlatformError("adding a key needs KEYWAY_MASTER_KEYS")
        value = SecretStr(api_key.get_secret_value().strip())
        check_new(alias, value, limits, base_url)
        await self.automation(automation_id)
        twin = await self._mongo.keys.find_one(
            {"fingerprint": {"$in": vault.fingerprints(value)}}, {"automation_id": 1, "alias": 1}
        )
        if twin is not None:
            raise ConflictError(
                f"this API key is there already: {twin['automation_id']}/{twin['alias']}; "
                "added twice, its limits would be counted twice"
            )
        key_id = f"key-{secrets.token_hex(8)}"
        now = await self._mongo.server_time()
        document: Document = {
            "_id": key_id,
            "automation_id": automation_id,
            "alias": alias,
            "base_url": base_url.rstrip("/"),
            "tier": tier,
            "secret": vault.seal(
                value.get_secret_value().encode(), secret_context(automation_id, key_id)
            ).document(),
            "fingerprint": vault.fingerprint(value),
            "last_four": last_four(value),
            "limits": asdict(limits),
            "status": "active",
            "status_reason": "added",
            "status_until": None,
            "status_since": now,
            "status_actor": self._actor,
            "history": [],
            "created_at": now,
        }
        try:
            await self._mongo.keys.insert_one(document)
        except DuplicateKeyError:
            raise ConflictError(f"{automation_id} has a key {alias} already") from None
        await announce(self._mongo, automation_id, f"key {alias} added", self._actor)
        return key_id

    async def find(self, automation_id: str, alias: str) -> Document:
        """One key's document, without its secret.

        Raises:
            NotFoundError: there is no such automation or key.
        """
        await self.automation(automation_id)
        key = await self._mongo.keys.find_one(
            {"automation_id": automation_id, "alias": alias}, {"secret": 0, "fingerprint": 0}
        )
        if key is None:
            raise NotFoundError(f"{automation_id} has no key {alias}; see `keyway keys list {automation_id}`")
        return key

    async def list(self, automation_id: str | None = None) -> list[Document]:
        """Keys without their secrets, of one automation or of all.

        Raises:
            NotFoundError: there is no such automation.
        """
        if automation_id is not None:
            await self.automation(automation_id)
        query = {} if automation_id is None else {"automation_id": automation_id}
        found = self._mongo.keys.find(query, {"secret": 0, "fingerprint": 0})
        return [key async for key in found.sort([("automation_id", 1), ("created_at", 1)])]

    async def set_status(self, automation_id: str, alias: str, to: KeyStatus, reason: str) -> None:
        """Switch a key by hand: `disabled`, or `active` from any status, which clears its failures.

        Raises:
            NotFoundError: there is no such automation or key.
        """
        key = await self.find(automation_id, alias)
        if key["status"] != to:
            await self._change_status(key, to, reason)

    async def _change_status(self, key: Document, to: KeyStatus, reason: str) -> None:
        change = StatusChange(to, reason, None, self._actor, await self._mongo.server_time())
        await self._mongo.transaction(partial(change_status, self._mongo, key, change))

    async def change(
        self, automation_id: str, alias: str, *, limits: dict[str, int | None], tier: int | None = None
    ) -> None:
        """Change some of a key's limits, or its tier.

        Args:
            automation_id: whose key.
            alias: its name.
            limits: the fields of `Limits` that change; None is without limit.
            tier: the new tier; None: as it is.

        Raises:
            NotFoundError: there is no such automation or key.
        """
        key = await self.find(automation_id, alias)
        changes: Document = {f"limits.{name}": value for name, value in limits.items()}
        if tier is not None:
            changes["tier"] = tier
        await self._mongo.keys.update_one({"_id": key["_id"]}, {"$set": changes})
        if "tokens_per_day" in limits and key.get("status_cause") == "day":
            # Accounting exhausts it again with the next call, should the new limit be spent too.
            await self._change_status(key, "active", "its daily limit was changed")
        await announce(self._mongo, automation_id, f"limits of key {alias} changed", self._actor)

    async def remove(self, automation_id: str, alias: str) -> None:
        """Remove a key; its usage stays in the books, and what is leased of it is revoked.

        Raises:
            NotFoundError: there is no such automation or key.
        """
        key = await self.find(automation_id, alias)
        now = await self._mongo.server_time()
        budgets = {"scope": "key", "subject": key["_id"]}

        async def delete(session: Session) -> None:
            await self._mongo.keys.delete_one({"_id": key["_id"]}, session=session)
            await revoke_leases(self._mongo, key["_id"], session)
            ids = [budget["_id"] async for budget in self._mongo.budgets.find(budgets, session=session)]
            await self._mongo.budgets.delete_many(budgets, session=session)
            await resolve_alerts(self._mongo, {"subject": {"$in": [key["_id"], *ids]}}, now, session)

        await self._mongo.transaction(delete)
        await announce(self._mongo, automation_id, f"key {alias} removed", self._actor)

    async def re_encrypt(self) -> AsyncIterator[tuple[int, int]]:
        """Bring every secret under the current master key; it may be stopped and repeated at any time.

        Yields:
            How many keys are done, and of how many.

        Raises:
            VaultError: a secret can't be opened with any of the master keys.
        """
        vault = self._vault
        if vault is None:
            raise PlatformError("re-encrypting needs KEYWAY_MASTER_KEYS")
        stale = {"secret.master_key": {"$ne": vault.current}}
        total, done = await self._mongo.keys.count_documents(stale), 0
        async for key in self._mongo.keys.find(stale, {"automation_id": 1, "secret": 1}):
            context = secret_context(key["automation_id"], key["_id"])
            sealed = Sealed.from_document(key["secret"])
            renewed = vault.reseal(sealed, context)
            if renewed is not None:
                plaintext = open_secret(vault, key["automation_id"], key["_id"], sealed)
                await self._mongo.keys.update_one(
                    {"_id": key["_id"], "secret.nonce": sealed.nonce},
                    {"$set": {"secret": renewed.document(), "fingerprint": vault.fingerprint(plaintext)}},
                )
            done += 1
            yield done, total

    async def automation(self, automation_id: str) -> None:
        """Make sure that there is such an automation.

        Raises:
            NotFoundError: there is none.
        """
        if await self._mongo.automations.find_one({"_id": automation_id}, {"_id": 1}) is None:
            raise NotFoundError(f"no automation {automation_id}; see `keyway automations list`")
