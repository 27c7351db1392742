"""Operators, and tokens of their scripts: for admins."""

from datetime import datetime

from nicegui import ui
from pydantic import SecretStr

from workers.console.access.operators import Operator, Role
from workers.console.pages.dialogs import confirm, dialog, foot, plain, primary, show_secret
from workers.console.pages.figures import iso
from workers.console.pages.grid import Column, Grid, Row, action, chip
from workers.console.pages.layout import Empty, heading, panel
from workers.console.pages.live import Live
from workers.console.pages.visit import Visit

ROLES = {Role.VIEWER.value: "Viewer: sees, changes nothing", Role.ADMIN.value: "Admin: changes things"}
DAYS = {30: "30 days", 90: "90 days", 365: "1 year", 0: "For ever"}
OPERATORS = [
    Column("name", "Operator"),
    Column("role", "Role"),
    Column("state", "State", "chip"),
    Column("since", "Since", "time"),
    Column("actions", "", "actions"),
]
TOKENS = [
    Column("label", "For"),
    Column("username", "Whose"),
    Column("role", "Role"),
    Column("until", "Until", "time"),
    Column("actions", "", "actions"),
]
#: How often the lists are read anew, in seconds.
EVERY_S = 10.0


async def build(visit: Visit) -> None:
    """Make the page."""
    page = _Operators(visit)
    page.lay_out()
    await page.live.start()


class _Operators:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def lay_out(self) -> None:
        with ui.element("div").classes("kw-bar-top"):
            heading("Operators", "Who may look at this console, and who may change things.")
            plain("New token", self._add_token, icon="token")
            primary("Add operator", self._add, icon="person_add")
        self.live = Live(self._visit, self._refresh, EVERY_S)
        with panel("", tight=True):
            self._grid = Grid(
                OPERATORS, label="Operators", on_ask=self.live.now, on_act=self.live.acting(self._act)
            )
        with panel("Tokens of scripts", "for the HTTP API, sent as Bearer", tight=True):
            self._none = Empty(
                "token", "There are no tokens", "A script needs one to call the HTTP API; see /api/docs."
            )
            self._tokens = Grid(
                TOKENS, label="Tokens", on_ask=self.live.now, on_act=self.live.acting(self._act_on_token)
            )

    async def _refresh(self) -> None:
        services = self._visit.services
        operators = [_operator_row(operator) for operator in await services.operators.list()]
        asked = self._grid.asked
        self._grid.show(operators[asked.skip : asked.skip + asked.size], len(operators))
        tokens = [_token_row(token) for token in await services.api_tokens.list()]
        asked = self._tokens.asked
        self._tokens.show(tokens[asked.skip : asked.skip + asked.size], len(tokens))
        self._tokens.set_visibility(bool(tokens))
        self._none.set_visibility(not tokens)

    def _add(self) -> None:
        with dialog("Add an operator") as opened, ui.element("div").classes("kw-form"):
            name = ui.input("Username").props("outlined dense maxlength=63 autofocus")
            role = ui.select(ROLES, value=Role.VIEWER.value, label="Role").props("outlined dense")

            async def save() -> None:
                username = (name.value or "").strip()
                changes = self._visit.services.operator_changes
                password = await self._visit.change(
                    lambda actor: changes(actor).add(username, Role(role.value))
                )
                if password is not None:
                    opened.close()
                    await self.live.now()
                    _show_password(username, password)

            with foot():
                plain("Cancel", opened.close)
                primary("Add operator", save)

    def _add_token(self) -> None:
        with dialog("A token for your scripts") as opened, ui.element("div").classes("kw-form"):
            label = ui.input("What it is for").props("outlined dense maxlength=100 autofocus")
            role = ui.select(ROLES, value=Role.VIEWER.value, label="Role").props("outlined dense")
            days = ui.select(DAYS, value=90, label="Valid for").props("outlined dense")

            async def save() -> None:
                purpose = (label.value or "").strip() or "script"
                made = await self._visit.change(
                    lambda actor: self._visit.services.operator_changes(actor).add_token(
                        self._visit.caller.username, purpose, Role(role.value), days=int(days.value) or None
                    )
                )
                if made is not None:
                    opened.close()
                    await self.live.now()
                    show_secret(f"The token for {purpose}", "It is not shown again.", made[1])

            with foot():
                plain("Cancel", opened.close)
                primary("Make token", save)

    async def _act(self, name: str, username: str) -> None:
        match name:
            case "reset":
                confirm(
                    f"Give {username} a new one-time password?",
                    "Their old password is refused, and they are signed out.",
                    "New password",
                    lambda: self._reset(username),
                )
            case "disable":
                confirm(
                    f"Disable {username}?",
                    "They are signed out and can't sign in until they are enabled again.",
                    "Disable",
                    lambda: self._change(username, "is disabled", enabled=False),
                )
            case "enable":
                await self._change(username, "may sign in again", enabled=True)
            case "promote":
                await self._change(username, "is an admin", role=Role.ADMIN)
            case "demote":
                await self._change(username, "is a viewer", role=Role.VIEWER)

    async def _change(
        self, username: str, done: str, *, role: Role | None = None, enabled: bool | None = None
    ) -> None:
        changes = self._visit.services.operator_changes
        await self._visit.change(
            lambda actor: changes(actor).change(username, role=role, enabled=enabled), f"{username} {done}."
        )
        await self.live.now()

    async def _reset(self, username: str) -> None:
        password = await self._visit.change(
            lambda actor: self._visit.services.operator_changes(actor).reset_password(username)
        )
        if password is not None:
            _show_password(username, password)

    async def _act_on_token(self, name: str, token_id: str) -> None:
        async def remove() -> None:
            changes = self._visit.services.operator_changes
            await self._visit.change(
                lambda actor: changes(actor).remove_token(token_id), "The token is refused."
            )
            await self.live.now()

        if name == "remove":
            confirm("Take this token back?", "Scripts that use it are refused at once.", "Take back", remove)


def _show_password(username: str, password: SecretStr) -> None:
    text = "It works once, to choose another one with. It is not shown again."
    show_secret(f"The one-time password of {username}", text, password)


def _operator_row(operator: Operator) -> Row:
    if not operator.enabled:
        state = chip("disabled", "idle")
    elif operator.must_change_password:
        state = chip("one-time password", "warn")
    else:
        state = chip("active", "good")
    is_admin = operator.role is Role.ADMIN
    switch = ("disable", "Disable", "block") if operator.enabled else ("enable", "Enable", "check")
    rank = ("demote", "Make viewer", "visibility") if is_admin else ("promote", "Make admin", "shield")
    return {
        "key": operator.username,
        "name": operator.username,
        "role": operator.role.value,
        "state": state,
        "since": iso(operator.created_at),
        "actions": [action("reset", "New password", "password"), action(*rank), action(*switch)],
    }


def _token_row(token: dict[str, object]) -> Row:
    until = token["expires_at"]
    return {
        "key": token["_id"],
        "label": token["label"],
        "username": token["username"],
        "role": token["role"],
        "until": iso(until if isinstance(until, datetime) else None),
        "actions": [action("remove", "Take back", "delete")],
    }
