"""Queues: what waits in each lane, for how long, and how fast it comes and goes."""

from collections.abc import Callable
from typing import Any

from nicegui import ui

from contracts import names
from infra.lanes import Age
from workers.console.pages.automations import CHANGES, change_automation
from workers.console.pages.dialogs import danger, dialog, foot, plain
from workers.console.pages.figures import count, duration, rate
from workers.console.pages.grid import Column, Grid, Row, action
from workers.console.pages.layout import heading, panel
from workers.console.pages.live import Live
from workers.console.pages.served_list import ServedList, Wording
from workers.console.pages.shared import Served
from workers.console.pages.tones import lane_chip
from workers.console.pages.visit import Visit

COLUMNS = [
    Column("name", "Lane", sortable=True),
    Column("state", "State", "chip", sortable=True),
    Column("waiting", "Waiting", "number", sortable=True),
    Column("oldest", "Oldest waits", "number", sortable=True),
    Column("in_hand", "In hand", "number", sortable=True),
    Column("comes", "In/s", "number", sortable=True),
    Column("goes", "Out/s", "number", sortable=True),
    Column("workers", "Workers", "number", sortable=True),
]
ORDERS: dict[str, Callable[[Served], Any]] = {
    "name": lambda served: served.lane.automation_id,
    "state": lambda served: (served.lane.enabled, not served.lane.paused),
    "waiting": lambda served: served.lane.state.waiting,
    "oldest": lambda served: served.lane.oldest.seconds if served.lane.oldest else -1,
    "in_hand": lambda served: served.lane.state.in_hand,
    "comes": lambda served: served.lane.state.publish_rate,
    "goes": lambda served: served.lane.state.deliver_rate,
    "workers": lambda served: served.lane.state.consumers,
}
WORDING = Wording(
    label="Lanes",
    field="Automation",
    icon="queue",
    no_match="No lane matches",
    none_yet="There are no lanes yet",
    what_next="Each automation brings its own: add one on the page Automations.",
)


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _Queues(visit)
    page.lay_out()
    await page.live.start()


class _Queues:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Queues", "Each automation has a lane of its own: one that stands holds up no other.")
            self._sum = ui.label().classes("kw-live")
        self.live = Live(self._visit, self._refresh)
        self._list = ServedList(
            self._visit,
            self.live,
            WORDING,
            columns=COLUMNS,
            orders=ORDERS,
            rows=self._rows,
            act=self._act,
            sort_by="waiting",
            descending=True,
        )
        with panel("Keyway's own queues", tight=True):
            self._own = Grid(
                [
                    Column("name", "Queue"),
                    Column("what", "What is in it"),
                    Column("waiting", "Waiting", "number"),
                ],
                label="Keyway's own queues",
                paged=False,
            )

    async def _rows(self, part: list[Served]) -> list[Row]:
        return [row_of(served, with_actions=self._visit.is_admin) for served in part]

    async def _refresh(self) -> None:
        every = await self._list.refresh()
        waiting = sum(served.lane.state.waiting for served in every)
        in_hand = sum(served.lane.state.in_hand for served in every)
        self._sum.text = f"{count(waiting)} wait, {count(in_hand)} in hand"
        await self._show_own()

    async def _show_own(self) -> None:
        queues = await self._visit.services.watch.queues()
        own = (
            (names.ACCOUNTING_QUEUE, "usage events and heartbeats on their way into the books"),
            (names.DEAD_QUEUE, "what could not be done; see Dead letters"),
        )
        self._own.show(
            [
                {
                    "key": name,
                    "name": name,
                    "what": what,
                    "waiting": count(queues[name].waiting + queues[name].in_hand),
                }
                for name, what in own
                if name in queues
            ]
        )

    async def _act(self, name: str, automation_id: str) -> None:
        if name == "purge":
            self._ask_to_purge(automation_id)
        elif name in {"pause", "resume"}:
            await change_automation(self._visit, automation_id, *CHANGES[name])
            await self._list.again()

    def _ask_to_purge(self, automation_id: str) -> None:
        with dialog(f"Throw away what waits for {automation_id}?") as opened:
            ui.label("Nobody gets an answer to these requests. Type the automation's name to confirm.")
            typed = ui.input(automation_id).props("outlined dense autofocus").classes("full-width")

            async def purge() -> None:
                confirmed = (typed.value or "").strip()
                changes = self._visit.services.automation_changes
                thrown = await self._visit.change(
                    lambda actor: changes(actor).purge(automation_id, confirmed),
                    f"The lane of {automation_id} is empty.",
                )
                if thrown is not None:
                    opened.close()
                    await self._list.again()

            with foot():
                plain("Cancel", opened.close)
                danger("Throw away", purge)


def row_of(served: Served, *, with_actions: bool) -> Row:
    """A lane as the table shows it."""
    lane = served.lane
    shown: Row = {
        "key": lane.automation_id,
        "name": lane.automation_id,
        "state": lane_chip(enabled=lane.enabled, paused=lane.paused, consumers=lane.state.consumers),
        "waiting": count(lane.state.waiting),
        "oldest": _age(lane.oldest),
        "in_hand": count(lane.state.in_hand),
        "comes": rate(lane.state.publish_rate),
        "goes": rate(lane.state.deliver_rate),
        "workers": count(lane.state.consumers),
    }
    if with_actions:
        pause = ("resume", "Resume", "play_arrow") if lane.paused else ("pause", "Pause", "pause")
        shown["actions"] = [action(*pause), action("purge", "Empty", "delete_sweep")]
    return shown


def _age(age: Age | None) -> str:
    if age is None:
        return "—"
    return f"{'over ' if age.at_least else ''}{duration(age.seconds * 1000)}"
