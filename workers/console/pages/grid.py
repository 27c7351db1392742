"""A table of whatever length: a page of it is in the browser, the rest stays here.

On a phone each row becomes a card. Cells show values as text, whatever stands in them; `grid.js` says how
each kind of a cell looks.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nicegui import events, ui
from nicegui.elements import echart

from workers.console.pages.charts import sparkline

Row: TypeAlias = dict[str, Any]
#: How a cell looks, and what its value is:
#: `text`: a string; `link`: the same, which opens the row; `number`: a string, to the right;
#: `time`: a time for the browser; `chip`: `{"text", "tone"}`; `bars`: a list of `{"label", "share", "text"}`;
#: `spark`: `{"points", "label"}`, a line through numbers;
#: `actions`: a list of `{"name", "label", "icon"}`. With `note` a further field stands below, in small.
Kind: TypeAlias = Literal["text", "link", "mono", "number", "time", "chip", "bars", "spark", "actions"]

PAGE_SIZE = 25
#: NiceGUI's own ECharts.
ECHARTS = str(Path(echart.__file__).parent / "dist")


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `name` is the field of a row that it shows."""

    name: str
    label: str
    kind: Kind = "text"
    sortable: bool = False
    #: The field that stands below its value, in small.
    note: str = ""

    def props(self) -> dict[str, Any]:
        """The same for the browser."""
        return {
            "name": self.name,
            "field": self.name,
            "label": self.label,
            "kind": self.kind,
            "note": self.note,
            "sortable": self.sortable,
            "align": "right" if self.kind in {"number", "actions"} else "left",
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of the table is to be shown."""

    page: int = 1
    size: int = PAGE_SIZE
    sort_by: str | None = None
    descending: bool = False

    @property
    def skip(self) -> int:
        """Rows before it."""
        return (self.page - 1) * self.size


class Grid(ui.element, component="grid.js", esm={"nicegui-echart": ECHARTS}):
    """The table; give it rows with `show`."""

    def __init__(
        self,
        columns: list[Column],
        *,
        label: str,
        key: str = "key",
        sort_by: str | None = None,
        descending: bool = False,
        paged: bool = True,
        on_ask: Callable[[], Awaitable[None]] | None = None,
        on_act: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        """Make an empty one.

        Args:
            columns: from the left.
            label: what it is a table of, for screen readers.
            key: the field that tells rows apart.
            sort_by: the column that it is sorted by at first.
            descending: whether the largest comes first.
            paged: whether it has pages; else all rows that are given to `show` are there at once.
            on_ask: called when `asked` has changed; None: all rows are given to `show`.
            on_act: called with the name of an action (`open` for a link) and the key of its row.
        """
        super().__init__()
        self.asked = Asked(sort_by=sort_by, descending=descending)
        self._sortable = {column.name for column in columns if column.sortable}
        self._on_ask, self._on_act = on_ask, on_act
        self._props["columns"] = [column.props() for column in columns]
        self._props["label"] = label
        self._props["row-key"] = key
        self._props["paged"] = paged
        self._props["spark"] = sparkline()
        self._props["rows"] = []
        self._props["pagination"] = self._pagination(0)
        self.on("ask", self._asks)
        self.on("act", self._acts)

    def show(self, rows: list[Row], total: int | None = None) -> None:
        """Show rows; nothing is sent where they are the same as before.

        Args:
            rows: the part of the table that was asked for.
            total: how many rows there are in all; None: these.
        """
        pagination = self._pagination(len(rows) if total is None else total)
        if rows == self._props["rows"] and pagination == self._props["pagination"]:
            return
        with self._props.suspend_updates():
            self._props["rows"] = rows
            self._props["pagination"] = pagination
        self.update()

    def first_page(self) -> None:
        """Go back to the first page, as after a change of a filter."""
        self.asked = Asked(1, self.asked.size, self.asked.sort_by, self.asked.descending)

    def _pagination(self, total: int) -> dict[str, Any]:
        return {
            "page": self.asked.page,
            "rowsPerPage": self.asked.size,
            "sortBy": self.asked.sort_by,
            "descending": self.asked.descending,
            "rowsNumber": total,
        }

    async def _asks(self, event: events.GenericEventArguments) -> None:
        asked = event.args
        sort_by = asked["sortBy"] if asked["sortBy"] in self._sortable else None
        size = min(max(int(asked["rowsPerPage"]), 10), 100)
        self.asked = Asked(max(1, int(asked["page"])), size, sort_by, bool(asked["descending"]))
        if self._on_ask is not None:
            await self._on_ask()

    async def _acts(self, event: events.GenericEventArguments) -> None:
        if self._on_act is not None:
            await self._on_act(str(event.args["name"]), str(event.args["key"]))


def chip(text: str, tone: str) -> dict[str, str]:
    """A status, by colour and text; tones are `good`, `warn`, `bad`, `info` and `idle`."""
    return {"text": text, "tone": tone}


def spark(points: list[int], label: str) -> dict[str, Any] | None:
    """A line through numbers, and what screen readers say of it; nothing where there is none to draw."""
    return {"points": points, "label": label} if len(points) > 1 else None


def action(name: str, label: str, icon: str) -> dict[str, str]:
    """A button of a row."""
    return {"name": name, "label": label, "icon": icon}


def bar(label: str, used: int, limit: int | None, text: str) -> dict[str, Any]:
    """How much is used of a limit; without one there is no bar."""
    share = None if limit is None else min(1.0, used / limit)
    return {"label": label, "share": share, "text": text}
