"""Light, dark, or as the system has it: each browser's own choice, in a cookie that says nothing else."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

Theme: TypeAlias = Literal["auto", "light", "dark"]

#: The cookie; `assets/console.js` writes it.
COOKIE = "keyway-theme"


def theme_of(cookies: Mapping[str, str]) -> Theme:
    """What a browser has chosen."""
    match cookies.get(COOKIE):
        case "light":
            return "light"
        case "dark":
            return "dark"
        case _:
            return "auto"


def is_dark(theme: Theme) -> bool | None:
    """The same as NiceGUI has it; None: as the system has it."""
    return {"light": False, "dark": True}.get(theme)
