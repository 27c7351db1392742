"""What an operator changes of automations and their lanes; each change is written to the audit log."""

from collections.abc import Mapping

from pydantic import SecretStr

from infra.errors import PlatformError
from infra.provision import Provisioner
from infra.service_tokens import Rotation
from workers.console.access.audit import AuditLog
from workers.console.automations import AutomationList, AutomationView
from workers.console.lanes import LaneDesk


class AutomationChanges:
    """Changes in the name of one operator."""

    def __init__(
        self,
        provisioner: Provisioner,
        automations: AutomationList,
        lanes: LaneDesk,
        audit: AuditLog,
        actor: str,
    ) -> None:
        """Take what changes and shows automations and lanes, the audit log, and who acts."""
        self._provisioner = provisioner
        self._automations = automations
        self._lanes = lanes
        self._audit = audit
        self._actor = actor

    async def add(self, automation_id: str, settings: Mapping[str, int | None]) -> SecretStr:
        """Add an automation.

        Args:
            automation_id: its id.
            settings: what differs from `infra.provision.AUTOMATION_DEFAULTS`.

        Returns:
            Its service token, which is kept nowhere.

        Raises:
            PlatformError: the id is not a valid one.
            ConflictError: there is such an automation.
            BrokerError: RabbitMQ refused.
        """
        token = await self._provisioner.add(automation_id, actor=self._actor, settings=settings)
        await self._audit.write(self._actor, "automation.added", automation_id, after=settings)
        return token

    async def change(self, automation_id: str, fields: Mapping[str, int | None]) -> AutomationView:
        """Change settings (`deadline_s`, …), or `enabled`, or `paused`.

        Returns:
            The automation as it is now.

        Raises:
            NotFoundError: there is no such automation.
        """
        before = await self._automations.find(automation_id)
        settings = {name: value for name, value in fields.items() if name not in {"enabled", "paused"}}
        if settings:
            await self._provisioner.change(automation_id, settings, actor=self._actor)
        if (enabled := fields.get("enabled")) is not None:
            await self._provisioner.set_enabled(automation_id, enabled=bool(enabled), actor=self._actor)
        if (paused := fields.get("paused")) is not None:
            await self._provisioner.set_paused(automation_id, paused=bool(paused), actor=self._actor)
        after = await self._automations.find(automation_id)
        await self._audit.write(
            self._actor,
            "automation.changed",
            automation_id,
            before={name: getattr(before, name) for name in fields},
            after={name: getattr(after, name) for name in fields},
        )
        return after

    async def begin_rotation(self, automation_id: str) -> Rotation:
        """Give an automation a second token.

        Raises:
            NotFoundError: there is no such automation.
            BrokerError: RabbitMQ refused; the token in use works on.
        """
        rotation = await self._provisioner.tokens.begin_rotation(automation_id, actor=self._actor)
        await self._audit.write(self._actor, "automation.rotation_begun", automation_id)
        return rotation

    async def finish_rotation(self, automation_id: str) -> int:
        """Let the second token replace the first.

        Returns:
            How many connections of the old token were closed.

        Raises:
            NotFoundError: there is no such automation.
            ConflictError: no rotation is under way.
            BrokerError: RabbitMQ refused; it may be repeated.
        """
        closed = await self._provisioner.tokens.finish_rotation(automation_id, actor=self._actor)
        await self._audit.write(self._actor, "automation.rotation_finished", automation_id)
        return closed

    async def purge(self, automation_id: str, confirmed: str) -> int:
        """Throw away what waits in a lane; nobody gets an answer to it.

        Args:
            automation_id: whose lane.
            confirmed: the same again, so that nobody empties another one by mistake.

        Returns:
            About how many requests there were.

        Raises:
            NotFoundError: there is no such automation.
            PlatformError: it is not confirmed.
            BrokerError: RabbitMQ refuses.
        """
        await self._automations.find(automation_id)
        if confirmed != automation_id:
            raise PlatformError("to throw away what waits, repeat the automation's id")
        count = await self._lanes.purge(automation_id)
        await self._audit.write(self._actor, "lane.purged", automation_id, after={"requests": count})
        return count
