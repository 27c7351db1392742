"""Lanes as operators see them, and their emptying."""

from dataclasses import dataclass
from urllib.parse import quote

from contracts import names
from infra.automation_documents import AutomationDocuments, AutomationId
from infra.lanes import Age, QueueState, QueueWatch
from infra.management import Management
from infra.mongo import Mongo


@dataclass(frozen=True, slots=True)
class Lane:
    """An automation's lane."""

    automation_id: str
    enabled: bool
    paused: bool
    state: QueueState
    oldest: Age | None


@dataclass(frozen=True, slots=True)
class _Automation:
    id: AutomationId
    enabled: bool
    paused: bool = False


class LaneDesk:
    """Shows lanes, and empties them."""

    def __init__(self, mongo: Mongo, admin: Management, watch: QueueWatch) -> None:
        """Take the database, the management API and what watches the queues."""
        self._mongo = mongo
        self._admin = admin
        self._watch = watch
        self._documents = AutomationDocuments(_Automation)

    async def list(self) -> list[Lane]:
        """The lanes of all automations whose document can be read, by name.

        Raises:
            BrokerError: the management API refuses, or can't be reached.
            PyMongoError: MongoDB is away or refused.
        """
        queues = await self._watch.queues()
        found = self._mongo.automations.find({}, {"enabled": 1, "paused": 1}).sort("_id", 1)
        lanes = []
        for automation in self._documents.readable([document async for document in found]):
            name = names.lane_queue(automation.id)
            lanes.append(
                Lane(
                    automation.id,
                    automation.enabled,
                    automation.paused,
                    queues.get(name) or QueueState.from_management({}),
                    self._watch.oldest(name),
                )
            )
        return lanes

    async def purge(self, automation_id: str) -> int:
        """Throw away what waits in a lane; nobody gets an answer to it.

        Returns:
            About how many requests there were.

        Raises:
            BrokerError: RabbitMQ refuses, or has no such lane.
        """
        queue = quote(names.lane_queue(automation_id), safe="")
        before = await self._admin.call("GET", f"queues/{{vhost}}/{queue}")
        await self._admin.call("DELETE", f"queues/{{vhost}}/{queue}/contents")
        self._watch.forget()
        count: int = before.get("messages_ready", 0)
        return count
