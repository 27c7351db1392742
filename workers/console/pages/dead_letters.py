"""Dead letters: what could not be done, and why; looked at, done again, or dropped.

They are read when the page opens and when somebody asks, not every few seconds: whoever reads the queue
holds its letters, so that others do not see them meanwhile.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from contracts import names
from infra.dead_letter_facts import BODY_FIELDS, Wanted
from workers.console.dead_letters import MOST_LISTED, Done
from workers.console.pages.dialogs import confirm, drawer, foot, plain
from workers.console.pages.figures import count, iso
from workers.console.pages.grid import Column, Grid, Row, action
from workers.console.pages.layout import Empty, facts, heading, local_time, panel
from workers.console.pages.live import Live
from workers.console.pages.visit import Visit, say, sentence

COLUMNS = [
    Column("at", "Died", "time"),
    Column("request", "Request", "link", note="automation"),
    Column("reason", "Why"),
    Column("id", "Letter", "mono"),
]
NOTHING = ("No dead letters", "What could not be done would be here, with its reason.")
MASKED = "Headers and body are masked: they may hold prompts."


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _DeadLetters(visit)
    page.lay_out()
    await page.live.start()
    ui.timer(0.05, page.load, once=True)


class _DeadLetters:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._letters: list[dict[str, Any]] = []
        self._incomplete: str | None = None

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Dead letters", "What could not be done. Nothing leaves here but by your hand.")
            self._news = ui.label().classes("kw-live")
            plain("Read again", self.load, icon="refresh")
        self.live = Live(self._visit, self._count)
        with ui.element("div").classes("kw-filters"):
            self._automation = ui.input(placeholder="Automation")
            self._automation.props('outlined dense clearable aria-label="Automation"').classes("kw-select")
            self._reason = ui.input(placeholder="Part of the reason")
            self._reason.props('outlined dense clearable aria-label="Reason"').classes("kw-search")
            for field in (self._automation, self._reason):
                field.on("keydown.enter", self.load)
                field.on("clear", self.load)
            ui.element("div").classes("kw-grow")
            if self._visit.is_admin:
                plain("Replay all", self._replay_all, icon="replay")
                plain("Drop all", self._drop_all, icon="delete").classes("kw-takes")
        self._busy = ui.linear_progress(show_value=False, size="3px").props("indeterminate")
        with panel("", tight=True):
            self._none = Empty("mark_email_read", *NOTHING)
            columns = [*COLUMNS, Column("actions", "", "actions")] if self._visit.is_admin else COLUMNS
            self._grid = Grid(
                columns, label="Dead letters", key="id", on_ask=self._show, on_act=self.live.acting(self._act)
            )
        self._none.set_visibility(False)
        self._grid.set_visibility(False)

    async def load(self) -> None:
        """Read the letters anew."""
        self._busy.set_visibility(True)
        try:
            await self.live.attempt(self._read)
        finally:
            self._busy.set_visibility(False)

    async def _read(self) -> None:
        listing = await self._visit.services.dead_letters.list(self._wanted())
        self._letters, self._incomplete = listing.letters, listing.incomplete
        await self._show()
        await self._count()

    async def _show(self) -> None:
        asked = self._grid.asked
        part = self._letters[asked.skip : asked.skip + asked.size]
        self._grid.show(
            [_row(letter, with_actions=self._visit.is_admin) for letter in part], len(self._letters)
        )
        self._grid.set_visibility(bool(self._letters))
        self._none.set_visibility(not self._letters)
        if self._incomplete is not None:
            self._none.say("Not all letters were read", sentence(self._incomplete))
        elif self._wanted() != Wanted():
            self._none.say("No dead letter matches", "Name less of the reason, or no automation.")
        else:
            self._none.say(*NOTHING)

    async def _count(self) -> None:
        """How many there are now; cheap, since nobody takes them for it."""
        queue = (await self._visit.services.watch.queues()).get(names.DEAD_QUEUE)
        there = 0 if queue is None else queue.waiting + queue.in_hand
        self._news.text = news(there, self._incomplete)

    def _wanted(self, *ids: str) -> Wanted:
        if ids:
            return Wanted(frozenset(ids))
        return Wanted(
            automation_id=(self._automation.value or "").strip() or None,
            reason=(self._reason.value or "").strip() or None,
        )

    async def _act(self, name: str, letter_id: str) -> None:
        known = next((letter for letter in self._letters if letter["id"] == letter_id), None)
        if known is None:
            say("That letter is not on this page any more.", good=False)
        elif name == "open":
            open_letter(self._visit, known, self.replay, self._ask_to_drop)
        elif name == "replay":
            await self.replay(letter_id)
        elif name == "drop":
            self._ask_to_drop(letter_id)

    async def replay(self, *ids: str) -> None:
        """Publish letters again: these, or all that the filters name."""
        wanted = self._wanted(*ids)
        done = await self._visit.change(
            lambda actor: self._visit.services.dead_letter_changes(actor).replay(wanted)
        )
        if done is not None:
            _tell(done, "replayed")
            await self.load()

    async def drop(self, *ids: str) -> None:
        """Delete letters: these, or all that the filters name."""
        wanted = self._wanted(*ids)
        done = await self._visit.change(
            lambda actor: self._visit.services.dead_letter_changes(actor).drop(wanted)
        )
        if done is not None:
            _tell(done, "dropped")
            await self.load()

    def _replay_all(self) -> None:
        confirm(
            f"Replay {self._which()}?",
            "Each is published again, and leaves here once that is confirmed. "
            "A request that failed is done anew.",
            "Replay all",
            self.replay,
            harmful=False,
        )

    def _drop_all(self) -> None:
        confirm(f"Drop {self._which()}?", "They are gone for good.", "Drop all", self.drop)

    def _ask_to_drop(self, letter_id: str) -> None:
        confirm("Drop this letter?", "It is gone for good.", "Drop", lambda: self.drop(letter_id))

    def _which(self) -> str:
        return "all dead letters" if self._wanted() == Wanted() else "all dead letters that match"


def news(there: int, incomplete: str | None) -> str:
    """Say how many letters are in the queue, and whether the list has only a part of them.

    Args:
        there: letters in the queue now.
        incomplete: why the last reading did not see all (`DeadLetterQueue.incomplete`).
    """
    counted = f"{count(there)} in the queue"
    if incomplete is not None:
        return f"{counted}. {sentence(incomplete)}"
    return f"{counted}; the oldest {MOST_LISTED} are shown" if there > MOST_LISTED else counted


def open_letter(
    visit: Visit,
    known: dict[str, Any],
    replay: Callable[[str], Awaitable[None]],
    drop: Callable[[str], None],
) -> None:
    """Show a letter in a panel on the right; its body only when an admin asks for it."""
    with drawer(f"Letter {known['id']}") as opened:
        with facts():
            ui.label("Why")
            ui.label(known["reason"])
            ui.label("Automation")
            ui.label(known["automation_id"])
            ui.label("Request")
            ui.label(known["request_id"] or "—").classes("kw-mono")
            ui.label("Kind")
            ui.label(known["type"] or "—").classes("kw-mono")
            for label, at in (("Died", known["died_at"]), ("Published", known["published_at"])):
                if at is not None:
                    ui.label(label)
                    local_time(iso(at) or "")
        body = ui.element("div").classes("kw-list")
        with body:
            ui.label(MASKED).classes("kw-muted")

        async def reveal() -> None:
            letter = await visit.change(
                lambda actor: visit.services.dead_letter_changes(actor).reveal(known["id"])
            )
            if letter is not None:
                body.clear()
                with body:
                    _show_content(letter)
                button.disable()

        async def replay_it() -> None:
            opened.close()
            await replay(known["id"])

        def drop_it() -> None:
            opened.close()
            drop(known["id"])

        if visit.is_admin:
            ui.element("div").classes("kw-grow")
            with foot():
                button = plain("Reveal", reveal, icon="visibility")
                plain("Drop", drop_it, icon="delete").classes("kw-takes")
                plain("Replay", replay_it, icon="replay")


def _show_content(letter: dict[str, Any]) -> None:
    ui.label("Headers").classes("text-weight-medium")
    _code(letter["headers"])
    ui.label("Body").classes("text-weight-medium q-mt-md")
    _code(next((letter[name] for name in BODY_FIELDS if name in letter), ""))


def _code(value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, default=str)
    with ui.element("pre").classes("kw-code"):
        ui.label(text)


def _row(letter: dict[str, Any], *, with_actions: bool) -> Row:
    shown: Row = {
        "id": letter["id"],
        "at": iso(letter["died_at"] or letter["published_at"]),
        "automation": letter["automation_id"],
        "reason": letter["reason"][:500],
        "request": letter["request_id"] or "no id",
    }
    if with_actions:
        shown["actions"] = [action("replay", "Replay", "replay"), action("drop", "Drop", "delete")]
    return shown


def _tell(done: Done, verb: str) -> None:
    letters = "1 letter" if len(done.done) == 1 else f"{count(len(done.done))} letters"
    say(f"{letters} {verb}.")
    if done.kept:
        say(f"{count(len(done.kept))} stay: {done.kept[0].reason}.", good=False)
    if done.incomplete is not None:
        say(sentence(done.incomplete), good=False)
