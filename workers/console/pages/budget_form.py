"""The form of one budget: whose it is, how much for which time, and what happens when it is spent."""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from functools import partial

from nicegui import ui

from infra.errors import PlatformError
from infra.money import NANO, nanousd
from workers.budgets.budget import DEFAULT_SOFT_PERCENT, Budget, Window
from workers.budgets.registry import Subject
from workers.console.pages.dialogs import dialog, foot, plain, primary
from workers.console.pages.visit import Visit

WHOSE = {"automation": "The automation", "key": "One of its keys", "user": "One of its users"}
WINDOWS: dict[Window, str] = {"day": "UTC day", "month": "UTC month"}


class _SubjectFields:
    def __init__(self, automation_id: str, aliases: Sequence[str]) -> None:
        self._automation_id = automation_id
        self._whose = ui.select(WHOSE, value="automation", label="Whose").props("outlined dense")
        self._key = ui.select(list(aliases), label="Key").props("outlined dense")
        self._user = ui.input("User", placeholder="as requests name them").props(
            "outlined dense maxlength=256"
        )
        self._key.bind_visibility_from(self._whose, "value", value="key")
        self._user.bind_visibility_from(self._whose, "value", value="user")

    def subject(self) -> Subject:
        """Whose budget was chosen.

        Raises:
            PlatformError: a key or a user is meant, and none is named.
        """
        if self._whose.value == "key":
            if not self._key.value:
                raise PlatformError("choose the key")
            return Subject(self._automation_id, key=str(self._key.value))
        if self._whose.value == "user":
            if not (user := (self._user.value or "").strip()):
                raise PlatformError("name the user")
            return Subject(self._automation_id, user=user)
        return Subject(self._automation_id)


def ask_for_budget(
    visit: Visit,
    automation_id: str,
    changed: Callable[[], Awaitable[None]],
    *,
    aliases: Sequence[str] = (),
    budget: Budget | None = None,
) -> None:
    """Ask for a budget, and set it.

    Args:
        visit: the page.
        automation_id: whose, or whose key's or user's.
        changed: called when it is set.
        aliases: of the keys that may be chosen.
        budget: the one to change; None: it is asked for whom it is, too.
    """
    title = "Set a budget" if budget is None else f"The {budget.name}"
    with dialog(title) as opened, ui.element("div").classes("kw-form"):
        if budget is None:
            chosen: Callable[[], Subject] = _SubjectFields(automation_id, aliases).subject
        else:
            chosen = partial(Subject.of, budget)
        with ui.element("div").classes("kw-pair"):
            limit = ui.input("Limit", value="" if budget is None else _plain(budget.limit))
            limit.props('outlined dense prefix="$" inputmode=decimal autofocus')
            window = ui.select(WINDOWS, value="day", label="For each").props("outlined dense")
            window.set_visibility(budget is None)
        soft = ui.number(
            "Alert from this percentage on",
            value=DEFAULT_SOFT_PERCENT if budget is None else budget.soft_percent,
            min=1,
            max=100,
            precision=0,
            format="%d",
        ).props("outlined dense")
        hard = ui.switch("Stop calls when it is spent", value=budget is None or budget.hard)

        async def setting(actor: str) -> Budget:
            return await visit.services.budget_changes(actor).set(
                chosen(),
                window.value if budget is None else budget.window,
                nanousd((limit.value or "").strip()),
                soft_percent=None if soft.value is None else int(soft.value),
                hard=bool(hard.value),
            )

        async def save() -> None:
            done = await visit.change(setting)
            if done is not None:
                opened.close()
                await changed()

        with foot():
            plain("Cancel", opened.close)
            primary("Set budget", save)


def _plain(amount: int) -> str:
    """Nano-USD as somebody would type them in USD."""
    return format((Decimal(amount) / NANO).normalize(), "f")
