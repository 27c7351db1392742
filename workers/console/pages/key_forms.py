"""Forms of one key: add it, change what it may do."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nicegui import ui
from pydantic import SecretStr

from workers.console.pages.dialogs import dialog, foot, plain, primary
from workers.console.pages.visit import Visit, say
from workers.keys.facts import TIERS, KeyView
from workers.keys.import_file import NewKey
from workers.keys.key import Limits
from workers.keys.registry import DEFAULT_BASE_URL

TIER_NAMES = {position: tier.value.capitalize() for position, tier in enumerate(TIERS)}
LIMITS = {
    "requests_per_minute": "Requests per minute",
    "tokens_per_minute": "Tokens per minute",
    "tokens_per_day": "Tokens per day (UTC)",
    "max_in_flight": "Calls at a time",
}
#: Automations that the form offers; more are found by typing.
MOST_OFFERED = 5000


@dataclass(frozen=True, slots=True)
class _LimitFields:
    """Fields of a form for the limits and the tier."""

    numbers: dict[str, ui.number]
    tier: ui.select

    @classmethod
    def make(cls, limits: Limits, tier: int) -> "_LimitFields":
        numbers = {}
        with ui.element("div").classes("kw-pair"):
            for name, label in LIMITS.items():
                value = getattr(limits, name)
                field = ui.number(label, value=value, min=1, precision=0, format="%d")
                numbers[name] = field.props('outlined dense clearable placeholder="no limit"')
        chosen = ui.select(TIER_NAMES, value=tier, label="Comes into use").props("outlined dense")
        return cls(numbers, chosen)

    def values(self) -> dict[str, int | None]:
        return {
            name: None if field.value is None else int(field.value) for name, field in self.numbers.items()
        }


async def add_key(visit: Visit, added: Callable[[], Awaitable[None]]) -> None:
    """Ask for a key and add it."""
    found = visit.services.mongo.automations.find({}, {"_id": 1}).sort("_id", 1).limit(MOST_OFFERED)
    automations = [document["_id"] async for document in found]
    if not automations:
        say("Add an automation first: a key belongs to one.", good=False)
        return
    with dialog("Add a key", persistent=True) as opened, ui.element("div").classes("kw-form"):
        chosen = visit.asked("automation")
        automation = ui.select(
            automations,
            label="Automation",
            value=chosen if chosen in automations else automations[0],
            with_input=True,
        ).props("outlined dense")
        alias = ui.input("Name", placeholder="Primary").props("outlined dense maxlength=100 autofocus")
        secret = ui.input("API key").props(
            "outlined dense type=password autocomplete=off maxlength=1000"
            ' hint="It goes in and never comes out."'
        )
        fields = _LimitFields.make(Limits(), 0)
        base_url = ui.input("The provider's address", value=DEFAULT_BASE_URL).props(
            "outlined dense maxlength=500"
        )

        async def save() -> None:
            given, secret.value = SecretStr(secret.value or ""), ""
            new = NewKey(
                1,
                str(automation.value or ""),
                (alias.value or "").strip(),
                given,
                Limits(**fields.values()),
                (base_url.value or "").strip(),
                int(fields.tier.value),
            )
            done = await visit.change(
                lambda actor: visit.services.key_changes(actor).add(new),
                f"Added {new.automation_id}/{new.alias}.",
            )
            if done is not None:
                opened.close()
                await added()

        with foot():
            plain("Cancel", opened.close)
            primary("Add key", save)


def change_limits(visit: Visit, view: KeyView, changed: Callable[[], Awaitable[None]]) -> None:
    """Ask for a key's limits and tier, and set them."""
    key = view.key
    with dialog(f"What {key.alias} may do") as opened, ui.element("div").classes("kw-form"):
        fields = _LimitFields.make(key.limits, key.tier)

        async def save() -> None:
            limits, tier = fields.values(), TIERS[int(fields.tier.value)]
            done = await visit.change(
                lambda actor: visit.services.key_changes(actor).change(view, limits=limits, tier=tier),
                f"Changed {key.automation_id}/{key.alias}.",
            )
            if done is not None:
                opened.close()
                await changed()

        with foot():
            plain("Cancel", opened.close)
            primary("Save", save)
