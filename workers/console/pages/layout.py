"""What every page has around it: the way to the others, who is signed in, light and dark."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nicegui import ui

from workers.console.pages.door import ASSETS, PASSWORD, SIGN_OUT
from workers.console.pages.theme import Theme, is_dark, theme_of
from workers.console.pages.visit import Visit

#: Narrower than this, in pixels, the navigation hides behind a button.
NARROW = 900
#: From this share on a meter is in an alarm's colour.
FULL = 0.9
#: What comes after each choice, and its icon.
NEXT_THEME: dict[Theme, Theme] = {"auto": "light", "light": "dark", "dark": "auto"}
THEME_ICONS: dict[Theme, str] = {"auto": "contrast", "light": "light_mode", "dark": "dark_mode"}
HEAD = (
    f'<link rel="stylesheet" href="{ASSETS}/console.css" /><script src="{ASSETS}/console.js" defer></script>'
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A page in the navigation."""

    path: str
    title: str
    icon: str


@contextmanager
def frame(visit: Visit, here: Entry, entries: Sequence[Entry]) -> Iterator[None]:
    """Lay a page out; what is made within is its content."""
    ui.add_head_html(HEAD)
    ui.colors(primary="#3056d3", positive="#12805c", negative="#c4320a", warning="#b25e09")
    theme = theme_of(visit.request.cookies)
    dark = ui.dark_mode(value=is_dark(theme))
    with (
        ui.left_drawer(value=False, top_corner=True, bottom_corner=True)
        .classes("kw-nav")
        .props(f"width=216 breakpoint={NARROW} show-if-above") as drawer
    ):
        _brand()
        with ui.element("nav").classes("kw-nav-entries").props('aria-label="Pages"'):
            for entry in entries:
                _entry(entry, is_here=entry is here)
        ui.element("div").classes("kw-grow")
        _who(visit, dark, theme)
    with ui.header().classes("kw-top lt-md"):
        menu = ui.button(icon="menu", on_click=drawer.toggle, color=None).props(
            'flat round dense aria-label="Menu"'
        )
        menu.classes("kw-quiet")
        _brand()
    with ui.element("main").classes("kw-main") as main:
        yield
    ui.skip_link("Skip to the content", target=main)


def heading(title: str, text: str = "") -> None:
    """A page's title, with a line on what it shows."""
    with ui.element("div").classes("kw-heading"):
        with ui.element("h1"):
            ui.label(title)
        if text:
            ui.label(text).classes("kw-muted")


@contextmanager
def panel(title: str, text: str = "", *, tight: bool = False) -> Iterator[ui.element]:
    """A framed part of a page; `tight` is for what reaches its edges, such as tables."""
    with ui.element("section").classes("kw-panel" + (" kw-tight" if tight else "")) as section:
        if title:
            with ui.element("div").classes("kw-panel-head"):
                with ui.element("h2"):
                    ui.label(title)
                if text:
                    ui.label(text).classes("kw-muted")
        yield section


class Empty:
    """What stands where nothing is yet: what to do next."""

    def __init__(self, icon: str, title: str = "", text: str = "") -> None:
        """Show it."""
        with ui.element("div").classes("kw-empty") as self._box:
            ui.icon(icon)
            self._title = ui.label(title).classes("kw-empty-title")
            self._text = ui.label(text).classes("kw-muted")

    def say(self, title: str, text: str) -> None:
        """Say something else."""
        self._title.text = title
        self._text.text = text

    def set_visibility(self, visible: bool) -> None:  # noqa: FBT001  # as all of NiceGUI's elements have it
        """Show or hide it."""
        self._box.set_visibility(visible)


@contextmanager
def facts() -> Iterator[None]:
    """A list of names and values: make them in turn."""
    with ui.element("div").classes("kw-facts"):
        yield


def meter(share: float, label: str) -> None:
    """How much is used, as a share of 1; what is over it is shown as full."""
    track = ui.element("div").classes("kw-bar-track").props("role=meter aria-valuemin=0 aria-valuemax=100")
    track.props["aria-valuenow"] = round(share * 100)
    track.props["aria-label"] = label
    with track:
        fill = ui.element("div").classes("kw-bar-fill" + (" kw-full" if share >= FULL else ""))
        fill.style(f"width: {min(share, 1):.1%}")


def local_time(at: str) -> ui.element:
    """A time in the browser's zone, with UTC on hover."""
    element = ui.element("local-time")
    element.props["at"] = at
    return element


def _brand() -> None:
    with ui.link(target="/").classes("kw-brand"):
        ui.element("img").props(f'src="{ASSETS}/keyway.svg" alt="" width=26 height=26')
        ui.label("Keyway")


def _entry(entry: Entry, *, is_here: bool) -> None:
    link = ui.link(target=entry.path).classes("kw-nav-entry" + (" kw-here" if is_here else ""))
    if is_here:
        link.props("aria-current=page")
    with link:
        ui.icon(entry.icon)
        ui.label(entry.title)


def _who(visit: Visit, dark: ui.dark_mode, theme: Theme) -> None:
    chosen = theme

    def turn() -> None:
        nonlocal chosen
        chosen = NEXT_THEME[chosen]
        dark.value = is_dark(chosen)
        button.props(f'icon={THEME_ICONS[chosen]} aria-label="Colours: {chosen}"')
        tooltip.text = f"Colours: {chosen}"
        ui.run_javascript(f"keywayTheme('{chosen}')")

    with ui.element("div").classes("kw-who"):
        with ui.element("div").classes("kw-who-name"):
            ui.label(visit.caller.username).classes("kw-ellipsis")
            ui.label(visit.caller.role.value).classes("kw-muted")
        with ui.button(icon=THEME_ICONS[theme], on_click=turn, color=None).props(
            "flat round dense"
        ) as button:
            tooltip = ui.tooltip(f"Colours: {theme}")
        button.props(f'aria-label="Colours: {theme}"').classes("kw-quiet")
        password = ui.element("a").props(f'href="{PASSWORD}" aria-label="Change password"')
        with password.classes("kw-quiet kw-icon-link"):
            ui.icon("key")
            ui.tooltip("Change password")
        with ui.element("form").props(f'method=post action="{SIGN_OUT}"'):
            with ui.button(icon="logout", color=None).props(
                'type=submit flat round dense aria-label="Sign out"'
            ) as out:
                ui.tooltip("Sign out")
            out.classes("kw-quiet")
