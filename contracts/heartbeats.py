"""Signs of life that the client sends, for operators to see who runs which version."""

from __future__ import annotations

import asyncio
import logging
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING

from aio_pika import Message

from contracts import names
from contracts.background import Background
from contracts.connection import BROKER_TIMEOUT_S, on_channel
from contracts.messages import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Sized

    from contracts.connection import BrokerConnection

log = logging.getLogger("keyway")


def package_version() -> str:
    """This package and its version, such as `keyway/0.1.0`."""
    try:
        return f"keyway/{metadata.version('keyway')}"
    except metadata.PackageNotFoundError:
        return "keyway"


class Heartbeats:
    """Publishes `heartbeat.v1` at the start and at intervals; one that fails harms nothing.

    Args:
        connection: what to publish on, each time on a channel of its own.
        automation_id: whose they are.
        under_way: the requests under way.
        version: what runs here; None: `package_version()`.
        interval_s: seconds between two; 0 for none at all.
    """

    def __init__(
        self,
        connection: BrokerConnection,
        automation_id: str,
        under_way: Sized,
        *,
        version: str | None,
        interval_s: float,
    ) -> None:
        self._connection = connection
        self._routing_key = names.event_routing_key(names.HEARTBEAT, automation_id)
        self._under_way = under_way
        self._version = version or package_version()
        self._interval_s = interval_s
        self._tasks = Background()

    def start(self) -> None:
        """Begin."""
        if self._interval_s:
            self._tasks.start("heartbeats", self._beat(datetime.now(UTC)))

    async def stop(self) -> None:
        """End."""
        await self._tasks.close()

    async def _beat(self, started_at: datetime) -> None:
        while True:
            heartbeat = Heartbeat(
                version=self._version,
                host=platform.node(),
                started_at=started_at,
                in_flight=len(self._under_way),
            )
            try:
                await self._publish(heartbeat)
            except Exception as error:  # noqa: BLE001  # whatever it is, requests are not to suffer for it
                log.debug("no heartbeat: %s: %s", type(error).__name__, error)
            await asyncio.sleep(self._interval_s)

    async def _publish(self, heartbeat: Heartbeat) -> None:
        message = Message(
            heartbeat.model_dump_json().encode(), type=names.HEARTBEAT, content_type="application/json"
        )
        async with self._connection.brief_channel() as channel:
            await on_channel(
                channel.basic_publish(
                    message.body,
                    exchange=names.EVENTS_EXCHANGE,
                    routing_key=self._routing_key,
                    properties=message.properties,
                    timeout=BROKER_TIMEOUT_S,
                )
            )
