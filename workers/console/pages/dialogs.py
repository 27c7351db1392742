"""Buttons and dialogs of all pages."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import iscoroutine
from typing import Any

from nicegui import ui
from pydantic import SecretStr

Handler = Callable[..., Awaitable[Any] | None]


def primary(text: str, on_click: Handler, icon: str | None = None) -> ui.button:
    """The one button that does what a page or a dialog is for."""
    return (
        ui.button(text, on_click=_of_the_page(on_click), icon=icon).props("unelevated").classes("kw-button")
    )


def plain(text: str, on_click: Handler, icon: str | None = None) -> ui.button:
    """Any other button."""
    button = ui.button(text, on_click=_of_the_page(on_click), icon=icon, color=None)
    return button.props("unelevated").classes("kw-button kw-plain")


def danger(text: str, on_click: Handler, icon: str | None = None) -> ui.button:
    """A button that takes something away."""
    button = ui.button(text, on_click=_of_the_page(on_click), icon=icon, color="negative")
    return button.props("unelevated").classes("kw-button")


def icon_button(icon: str, label: str, on_click: Handler) -> ui.button:
    """A button that is an icon alone; its label is for screen readers, and shown on hover."""
    button = ui.button(icon=icon, on_click=_of_the_page(on_click), color=None).props("flat round dense")
    button.props["aria-label"] = label
    with button.classes("kw-quiet"):
        ui.tooltip(label)
    return button


def _of_the_page(on_click: Handler) -> Callable[[], Awaitable[None]]:
    """Run a handler as the page's, not as its button's: that may go away with its dialog meanwhile."""

    async def run() -> None:
        with ui.context.client:
            result = on_click()
            if iscoroutine(result):  # a dialog is awaitable too, and opens when it is awaited
                await result

    return run


@contextmanager
def dialog(title: str, *, wide: bool = False, persistent: bool = False) -> Iterator[ui.dialog]:
    """A dialog; what is made within is its content, and it goes away for good when it is closed."""
    with ui.dialog() as opened:
        if persistent:
            opened.props("persistent")
        opened.on("hide", opened.delete)
        with ui.element("div").classes("kw-dialog column no-wrap" + (" kw-wide" if wide else "")):
            ui.label(title).classes("kw-dialog-title").props('role="heading" aria-level="2"')
            yield opened
    opened.open()


@contextmanager
def drawer(title: str) -> Iterator[ui.dialog]:
    """A panel on the right; what is made within is its content."""
    with ui.dialog().props("position=right full-height") as opened:
        opened.on("hide", opened.delete)
        with ui.element("div").classes("kw-drawer column no-wrap"):
            with ui.row(align_items="center", wrap=False).classes("full-width"):
                ui.label(title).classes("kw-dialog-title kw-grow").props('role="heading" aria-level="2"')
                close = ui.button(icon="close", on_click=opened.close, color=None)
                close.props('flat round dense aria-label="Close"').classes("kw-quiet")
            yield opened
    opened.open()


@contextmanager
def foot() -> Iterator[None]:
    """The row of buttons at a dialog's end."""
    with ui.element("div").classes("kw-dialog-foot"):
        yield


def confirm(
    title: str, text: str, verb: str, do: Callable[[], Awaitable[Any]], *, harmful: bool = True
) -> None:
    """Ask before something is done.

    Args:
        title: the question.
        text: what will be, and what will be lost.
        verb: what the button says.
        do: what to do if it is pressed.
        harmful: whether it takes something away.
    """
    with dialog(title) as opened:
        ui.label(text).classes("kw-muted")

        async def go() -> None:
            opened.close()
            await do()

        with foot():
            plain("Cancel", opened.close)
            (danger if harmful else primary)(verb, go)


def show_secret(title: str, text: str, secret: SecretStr) -> None:
    """Show a secret, this once."""
    with dialog(title, persistent=True) as opened:
        ui.label(text).classes("kw-muted")
        value = ui.label(secret.get_secret_value()).classes("kw-secret")
        copy = f"navigator.clipboard?.writeText(getElement({value.id}).$el.textContent)"
        with foot():
            ui.button("Copy", icon="content_copy", color=None).on("click", js_handler=f"() => {copy}").props(
                "unelevated"
            ).classes("kw-button kw-plain")
            primary("I have kept it", opened.close)
