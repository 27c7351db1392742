"""What an operator changes of keys; each change is written to the audit log, and never the key itself."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from contracts.messages import KeyStatus
from infra.errors import PlatformError, VaultError
from infra.mongo import Mongo
from infra.vault import Vault
from workers.console.access.audit import AuditLog
from workers.keys.facts import TIERS, KeyView, Tier, find_key
from workers.keys.import_file import BadLine, NewKey
from workers.keys.probes import ProbeResult, probe
from workers.keys.registry import KeyRegistry, check_new, last_four, open_secret


@dataclass(frozen=True, slots=True)
class Imported:
    """What becomes, or became, of one line of a file of keys; `problem` is None where nothing is wrong."""

    line: int
    automation_id: str | None
    alias: str | None
    last_four: str | None
    problem: str | None


class KeyChanges:
    """Changes in the name of one operator."""

    def __init__(
        self,
        mongo: Mongo,
        vault: Vault | None,
        registry: KeyRegistry,
        audit: AuditLog,
        actor: str,
        *,
        proxy_from_environment: bool = False,
    ) -> None:
        """Make changes in an operator's name.

        Args:
            mongo: where the keys are.
            vault: needed to add, check and import only.
            registry: the keys, in the operator's name.
            audit: where each change is written down.
            actor: who acts.
            proxy_from_environment: whether a check of a key goes through the environment's proxy.
        """
        self._proxy_from_environment = proxy_from_environment
        self._mongo = mongo
        self._vault = vault
        self._registry = registry
        self._audit = audit
        self._actor = actor

    async def add(self, new: NewKey) -> KeyView:
        """Add a key.

        Returns:
            The key as it is now.

        Raises:
            NotFoundError: there is no such automation.
            ConflictError: the alias is taken, or the same API key is there already.
            PlatformError: a field is wrong.
        """
        await self._registry.add(
            new.automation_id,
            new.alias,
            new.api_key,
            limits=new.limits,
            base_url=new.base_url,
            tier=new.tier,
        )
        view = await find_key(self._mongo, new.automation_id, new.alias)
        after = {
            **asdict(new.limits),
            "base_url": new.base_url,
            "tier": TIERS[new.tier].value,
            "last_four": view.document["last_four"],
        }
        await self._audit.write(self._actor, "key.added", _name(view), after=after)
        return view

    async def change(
        self, view: KeyView, *, limits: Mapping[str, int | None], tier: Tier | None = None
    ) -> KeyView:
        """Change some of a key's limits, or its tier.

        Args:
            view: the key.
            limits: the fields of `Limits` that change; None is without limit.
            tier: the new tier; None: as it is.

        Returns:
            The key as it is now.

        Raises:
            NotFoundError: there is no such key any more.
        """
        key = view.key
        position = None if tier is None else TIERS.index(tier)
        await self._registry.change(key.automation_id, key.alias, limits=dict(limits), tier=position)
        before: dict[str, object] = {name: view.document["limits"].get(name) for name in limits}
        after: dict[str, object] = dict(limits)
        if tier is not None:
            before["tier"], after["tier"] = TIERS[key.tier].value, tier.value
        await self._audit.write(self._actor, "key.changed", _name(view), before=before, after=after)
        return await find_key(self._mongo, key.automation_id, key.alias)

    async def set_status(self, view: KeyView, to: KeyStatus, reason: str) -> KeyView:
        """Switch a key by hand: `disabled`, or `active` from any status.

        Returns:
            The key as it is now.

        Raises:
            NotFoundError: there is no such key any more.
        """
        key = view.key
        await self._registry.set_status(key.automation_id, key.alias, to, reason)
        action = "key.disabled" if to == "disabled" else "key.enabled"
        before, after = {"status": key.status}, {"status": to, "reason": reason}
        await self._audit.write(self._actor, action, _name(view), before=before, after=after)
        return await find_key(self._mongo, key.automation_id, key.alias)

    async def check(self, view: KeyView) -> ProbeResult:
        """Ask the provider whether it takes a key (`GET /models`, which costs nothing)."""
        key, vault = view.key, self._opened()
        try:
            secret = open_secret(vault, key.automation_id, key.id, key.secret)
        except VaultError as error:
            result = ProbeResult(ok=False, reason=str(error))
        else:
            proxied = self._proxy_from_environment
            result = await probe(key.base_url, secret, proxy_from_environment=proxied)
        after = {"ok": result.ok, "reason": result.reason}
        await self._audit.write(self._actor, "key.checked", _name(view), after=after)
        return result

    async def remove(self, view: KeyView) -> None:
        """Remove a key; its usage stays in the books.

        Raises:
            NotFoundError: there is no such key any more.
        """
        await self._registry.remove(view.key.automation_id, view.key.alias)
        before = {"last_four": view.document["last_four"], "status": view.key.status}
        await self._audit.write(self._actor, "key.removed", _name(view), before=before)

    async def preview(self, lines: list[NewKey | BadLine]) -> list[Imported]:
        """What would become of the lines of a file of keys; nothing is changed.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        new = [line for line in lines if isinstance(line, NewKey)]
        automations = set(await self._mongo.automations.distinct("_id"))
        owners = list({line.automation_id for line in new})
        names = {"automation_id": 1, "alias": 1}
        taken = {
            (key["automation_id"], key["alias"])
            async for key in self._mongo.keys.find({"automation_id": {"$in": owners}}, names)
        }
        vault = self._opened()
        prints = {line.line: vault.fingerprints(line.api_key) for line in new}
        among = [found for fingerprints in prints.values() for found in fingerprints]
        known = set(await self._mongo.keys.distinct("fingerprint", {"fingerprint": {"$in": among}}))
        seen: list[Imported] = []
        for line in lines:
            problem: str | None = None
            if isinstance(line, NewKey):
                problem = _problem(line, automations, taken, known & set(prints[line.line]))
                taken.add((line.automation_id, line.alias))
                known.update(prints[line.line])
            seen.append(_imported(line, problem))
        return seen

    async def import_one(self, line: NewKey | BadLine) -> Imported:
        """Add the key of one line; what can't be added is said, not raised.

        Raises:
            PyMongoError: MongoDB is away or refused.
        """
        if isinstance(line, BadLine):
            return _imported(line, None)
        try:
            await self.add(line)
        except PlatformError as error:
            return _imported(line, str(error))
        return _imported(line, None)

    def _opened(self) -> Vault:
        if self._vault is None:
            raise PlatformError("this needs KEYWAY_MASTER_KEYS")
        return self._vault


def _problem(line: NewKey, automations: set[str], taken: set[tuple[str, str]], known: set[str]) -> str | None:
    """Why a key can't be added, by what is there already and the lines above it."""
    try:
        check_new(line.alias, line.api_key, line.limits, line.base_url)
    except PlatformError as error:
        return str(error)
    if line.automation_id not in automations:
        return f"no automation {line.automation_id}"
    if (line.automation_id, line.alias) in taken:
        return f"{line.automation_id} has a key {line.alias} already"
    return "this API key is there already" if known else None


def _imported(line: NewKey | BadLine, problem: str | None) -> Imported:
    if isinstance(line, BadLine):
        return Imported(line.line, None, None, None, line.reason)
    return Imported(line.line, line.automation_id, line.alias, last_four(line.api_key), problem)


def _name(view: KeyView) -> str:
    return f"{view.key.automation_id}/{view.key.alias}"
