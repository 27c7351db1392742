"""Pages that keep up by themselves: looked after while somebody sees them, and then no longer."""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from nicegui import events, ui

from infra.errors import PlatformError
from infra.mongo import PyMongoError
from workers.console.pages.visit import Visit, sentence

log = structlog.get_logger()

#: How often a live page is brought up to date, in seconds.
EVERY_S = 2.0


class Live:
    """Brings a page up to date: now, every few seconds, and when asked to.

    The timer is the page's own, and ends with it; it rests while the browser does not show the page. What
    pages show is read from services that read once for all who ask within a second (`Overviews`,
    `QueueWatch`), so that many open pages cost as little as one.
    """

    def __init__(
        self, visit: Visit, refresh: Callable[[], Awaitable[None]], every_s: float = EVERY_S
    ) -> None:
        """Take the page, and what brings it up to date."""
        self._visit = visit
        self._refresh = refresh
        self._every_s = every_s
        with ui.row().classes("kw-banner") as self._banner:
            ui.icon("cloud_off")
            self._reason = ui.label()
        self._banner.set_visibility(False)

    async def start(self) -> None:
        """Bring it up to date for the first time, and from now on."""
        await self.now()
        timer = ui.timer(self._every_s, self.now, immediate=False)

        def seen(event: events.GenericEventArguments) -> None:
            timer.active = bool(event.args)

        ui.on("keyway-seen", seen)

    async def now(self) -> None:
        """Bring it up to date."""
        await self.attempt(self._refresh)

    def acting(self, act: Callable[[str, str], Awaitable[None]]) -> Callable[[str, str], Awaitable[None]]:
        """What a table's rows do, as `attempt` does it."""

        async def attempted(name: str, key: str) -> None:
            await self.attempt(partial(act, name, key))

        return attempted

    async def attempt(self, read: Callable[[], Awaitable[None]]) -> None:
        """Read something for who is signed in still; where it fails, the page says so and stays as it was."""
        try:
            if await self._visit.is_signed_in():
                await read()
        except PlatformError as error:
            self._fails(sentence(str(error)))
        except PyMongoError as error:
            log.warning("mongo_unavailable", error=type(error).__name__)
            self._fails("No answer from MongoDB; what you see is from before.")
        else:
            self._banner.set_visibility(False)

    def _fails(self, reason: str) -> None:
        self._reason.text = reason
        self._banner.set_visibility(True)
