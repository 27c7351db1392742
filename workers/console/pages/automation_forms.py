"""Forms of one automation: add it, change its settings."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from infra.provision import AUTOMATION_DEFAULTS
from workers.console.automations import AutomationView
from workers.console.pages.dialogs import dialog, foot, plain, primary, show_secret
from workers.console.pages.visit import Visit

SETTINGS = {
    "deadline_s": ("Seconds for a request without a deadline", 86_400),
    "call_timeout_s": ("Seconds for one call to the provider", 1200),
    "max_in_flight": ("Calls at a time, over all keys", 100_000),
}


class _SettingFields:
    def __init__(self, values: dict[str, int | None]) -> None:
        self._numbers = {}
        for name, (label, most) in SETTINGS.items():
            field = ui.number(label, value=values[name], min=1, max=most, precision=0, format="%d")
            field.props("outlined dense")
            if name == "max_in_flight":
                field.props('clearable placeholder="no cap"')
            self._numbers[name] = field
        self._leases = ui.switch("May ask for keys to call with itself", value=bool(values["allow_leases"]))

    def values(self) -> dict[str, int | None]:
        """What was filled in; of what may not be empty, the default where it is."""
        numbers = {
            name: AUTOMATION_DEFAULTS[name] if field.value is None else int(field.value)
            for name, field in self._numbers.items()
        }
        return numbers | {"allow_leases": bool(self._leases.value)}


def add_automation(visit: Visit, added: Callable[[], Awaitable[None]]) -> None:
    """Ask for an automation, add it, and show its token once."""
    with dialog("Add an automation", persistent=True) as opened, ui.element("div").classes("kw-form"):
        name = ui.input("Name", placeholder="billing-bot")
        name.props('outlined dense maxlength=63 autofocus hint="a-z, 0-9 and -"')
        fields = _SettingFields(dict(AUTOMATION_DEFAULTS))

        async def save() -> None:
            automation_id = (name.value or "").strip()
            settings = fields.values()
            token = await visit.change(
                lambda actor: visit.services.automation_changes(actor).add(automation_id, settings)
            )
            if token is None:
                return
            opened.close()
            await added()
            show_secret(
                f"The service token of {automation_id}",
                "The automation signs in to RabbitMQ with its name and this token. It is not shown again.",
                token,
            )

        with foot():
            plain("Cancel", opened.close)
            primary("Add automation", save)


def change_settings(visit: Visit, view: AutomationView, changed: Callable[[], Awaitable[None]]) -> None:
    """Ask for an automation's settings, and set them."""
    with dialog(f"Settings of {view.automation_id}") as opened, ui.element("div").classes("kw-form"):
        fields = _SettingFields({name: getattr(view, name) for name in (*SETTINGS, "allow_leases")})

        async def save() -> None:
            settings = fields.values()
            done = await visit.change(
                lambda actor: visit.services.automation_changes(actor).change(view.automation_id, settings),
                f"Changed {view.automation_id}.",
            )
            if done is not None:
                opened.close()
                await changed()

        with foot():
            plain("Cancel", opened.close)
            primary("Save", save)
