"""Keys from a CSV file: what would become of each line first, then the import itself, with its progress."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from nicegui import events, ui

from infra.errors import PlatformError
from workers.console.api.keys import LARGEST_FILE, MOST_IMPORTED
from workers.console.key_changes import Imported
from workers.console.pages.dialogs import dialog, foot, plain, primary
from workers.console.pages.figures import counted
from workers.console.pages.grid import Column, Grid, Row, chip
from workers.console.pages.visit import Visit, say, sentence
from workers.keys.import_file import CSV_COLUMNS, BadLine, NewKey, read_keys

#: Keys that are added between two looks at the progress bar.
AT_A_TIME = 10
COLUMNS = [
    Column("line", "Line", "number"),
    Column("key", "Key"),
    Column("last_four", "Ends in", "mono"),
    Column("becomes", "Becomes", "chip", note="problem"),
]


def import_keys(visit: Visit, imported: Callable[[], Awaitable[None]]) -> None:
    """Ask for a file, show what would become of it, and import it."""
    with dialog("Import keys from a CSV file", wide=True, persistent=True) as opened:
        _Import(visit, opened, imported).lay_out()


class _Import:
    def __init__(self, visit: Visit, opened: ui.dialog, imported: Callable[[], Awaitable[None]]) -> None:
        self._visit, self._opened, self._imported = visit, opened, imported
        self._lines: Sequence[NewKey | BadLine] = ()
        self._seen: list[Imported] = []

    def lay_out(self) -> None:
        required, optional = ", ".join(CSV_COLUMNS[:3]), ", ".join(CSV_COLUMNS[3:])
        ui.label(f"Columns: {required}; and if you like {optional}. Nothing is added yet.").classes(
            "kw-muted"
        )
        self._upload = ui.upload(
            label="Choose the file, or drop it here",
            auto_upload=True,
            max_files=1,
            max_file_size=LARGEST_FILE,
            on_upload=self._read,
            on_rejected=lambda: say(f"A file has at most {LARGEST_FILE // 2**20} MiB.", good=False),
        )
        self._upload.props('accept=".csv,text/csv" flat').classes("kw-drop")
        self._summary = ui.label("").classes("text-weight-medium")
        self._grid = Grid(COLUMNS, label="What becomes of each line", key="line", on_ask=self._show)
        self._grid.set_visibility(False)
        self._bar = ui.linear_progress(0, show_value=False, size="8px").props("rounded")
        self._bar.set_visibility(False)
        with foot():
            self._cancel = plain("Cancel", self._opened.close)
            self._go = primary("Import", self._run)
            self._go.disable()

    async def _read(self, event: events.UploadEventArguments) -> None:
        try:
            lines = read_keys((await event.file.read()).decode())
        except UnicodeDecodeError:
            say("The file is not text in UTF-8.", good=False)
            return
        except PlatformError as error:
            say(sentence(str(error)), good=False)
            return
        finally:
            self._upload.reset()
        if len(lines) > MOST_IMPORTED:
            say(f"There are more than {MOST_IMPORTED} keys; import them in parts.", good=False)
            return
        changes = self._visit.services.key_changes
        seen = await self._visit.change(lambda actor: changes(actor).preview(lines))
        if seen is None:
            return
        self._lines, self._seen = lines, seen
        good = sum(line.problem is None for line in seen)
        self._summary.text = f"{good} of {len(seen)} lines can be imported."
        self._go.text = f"Import {counted(good, 'key')}"
        self._go.set_enabled(good > 0)
        self._upload.set_visibility(False)
        await self._show()

    async def _show(self) -> None:
        """Those with a problem first."""
        asked = self._grid.asked
        ordered = sorted(self._seen, key=lambda line: (line.problem is None, line.line))
        self._grid.show([_row(line) for line in ordered[asked.skip : asked.skip + asked.size]], len(ordered))
        self._grid.set_visibility(bool(ordered))

    async def _run(self) -> None:
        lines = [
            line
            for line, seen in zip(self._lines, self._seen, strict=True)
            if isinstance(line, NewKey) and seen.problem is None
        ]
        self._go.disable()
        self._cancel.disable()
        self._grid.set_visibility(False)
        self._bar.set_visibility(True)
        became: list[Imported] = []
        for start in range(0, len(lines), AT_A_TIME):
            some = lines[start : start + AT_A_TIME]
            part = await self._visit.change(partial(self._add, some))
            if part is None:
                break
            became += part
            self._bar.value = len(became) / len(lines)
            self._summary.text = f"Importing: {len(became)} of {len(lines)}"
        counts = Counter(line.problem is None for line in became)
        self._summary.text = f"Imported {counts[True]} of {len(lines)} keys."
        self._seen = [line for line in became if line.problem is not None]
        self._bar.set_visibility(False)
        await self._show()
        self._cancel.enable()
        self._cancel.text = "Close"
        self._go.set_visibility(False)
        await self._imported()

    async def _add(self, lines: Sequence[NewKey], actor: str) -> list[Imported]:
        changes = self._visit.services.key_changes(actor)
        return [await changes.import_one(line) for line in lines]


def _row(line: Imported) -> Row:
    named = "" if line.automation_id is None else f"{line.automation_id} / {line.alias}"
    return {
        "line": line.line,
        "key": named or "—",
        "last_four": f"…{line.last_four}" if line.last_four else "—",
        "becomes": chip("to be added", "info") if line.problem is None else chip("left out", "bad"),
        "problem": line.problem or "",
    }
