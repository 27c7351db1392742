"""Direct keys that are out just now: who has which key, until when."""

from collections.abc import Callable, Sequence

from nicegui import ui

from workers.console.leases import LeaseView
from workers.console.pages.figures import count, iso
from workers.console.pages.grid import Column, Row, chip
from workers.console.pages.layout import local_time

#: The newest so many are shown.
MOST_LEASES = 100
TONES = {"open": "good", "reported": "good", "revoked": "bad"}
COLUMNS = [
    Column("automation", "Who"),
    Column("key_alias", "Key", note="model"),
    Column("status", "State", "chip"),
    Column("since", "Since", "time"),
    Column("until", "Until", "time"),
    Column("tokens", "Tokens", "number", note="reported"),
]


def show_leases(leases: Sequence[LeaseView], name: Callable[[LeaseView], str]) -> None:
    """The part of a panel that lists them, each by a name of its own."""
    ui.label("Direct keys that are out").classes("text-weight-medium")
    if not leases:
        ui.label("None just now.").classes("kw-muted")
        return
    with ui.element("div").classes("kw-history"):
        for lease in leases:
            with ui.element("div").classes("kw-history-entry"):
                with ui.element("div"):
                    ui.label("until").classes("kw-note")
                    local_time(iso(lease.expires_at) or "").classes("kw-muted")
                with ui.element("div"):
                    ui.label(name(lease))
                    ui.label(f"{_state(lease)} · {_tokens(lease)}").classes("kw-note")


def row_of(lease: LeaseView) -> Row:
    """A lease as a table shows it."""
    return {
        "key": lease.lease_id,
        "automation": lease.automation_id,
        "key_alias": lease.key_alias,
        "model": lease.model or "any model",
        "status": chip(_state(lease), TONES[lease.status]),
        "since": iso(lease.granted_at),
        "until": iso(lease.expires_at),
        "tokens": count(lease.tokens),
        "reported": f"{count(lease.reported_tokens)} reported" if lease.reports else "",
    }


def _state(lease: LeaseView) -> str:
    return "out" if lease.status in {"open", "reported"} else lease.status


def _tokens(lease: LeaseView) -> str:
    reported = f", {count(lease.reported_tokens)} reported" if lease.reports else ""
    return f"for {count(lease.tokens)} tokens{reported}"
