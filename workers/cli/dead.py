"""`keyway dead`: what could not be done and lies in the queue `dead`, to look at, do again or throw away."""

import json
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress

from infra.dead_letter_facts import BODY_FIELDS, ID_PATTERN, Wanted, everything_of, summary
from infra.dead_letter_queue import DeadLetterQueue, Step, dead_letter_queue
from infra.errors import BrokerError, NotFoundError
from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, err, load_settings, out, platform, print_json, print_table, run
from workers.console.dead_letter_changes import note
from workers.console.dead_letters import Done, Kept

app = typer.Typer(help="Dead letters: what could not be done, and why.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="From `keyway dead list`.")]
Automation = Annotated[str | None, typer.Option(help="Only this automation's.")]
Reason = Annotated[str | None, typer.Option(help="Only those with this text in their reason.")]
RequestId = Annotated[str | None, typer.Option(help="Only those of this request.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.callback()
def quieten() -> None:
    """Leave it to one line to say what failed, without the driver's own."""
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)


@app.command("list")
def list_(
    automation: Automation = None,
    reason: Reason = None,
    request_id: RequestId = None,
    limit: Annotated[int, typer.Option(min=1, help="The oldest so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the oldest first; they stay where they are."""
    wanted = Wanted(frozenset(), automation, reason, request_id)

    async def work() -> tuple[list[dict[str, Any]], str | None]:
        rows: list[dict[str, Any]] = []
        async with dead_letter_queue(load_settings()) as queue:
            async for step in queue.find(wanted):
                rows += [summary(letter) for letter in step.done[: limit - len(rows)]]
                if len(rows) == limit:
                    break
            return rows, queue.incomplete

    rows, incomplete = run(work())
    if as_json:
        print_json(rows)
    elif not rows and incomplete is None:
        err.print("No dead letters." if wanted == Wanted() else "No dead letter matches.")
    else:
        columns = ["id", "when (UTC)", "automation", "type", "request id", "reason"]
        print_table("Dead letters", columns, [_row(row) for row in rows])
        if len(rows) == limit:
            err.print(f"There may be more than these {limit}; --limit shows more, filters show fewer.")
    _finish(wanted, set(), incomplete)


@app.command()
def show(
    ids: Ids = None,
    automation: Automation = None,
    reason: Reason = None,
    request_id: RequestId = None,
    as_json: JsonOption = False,
) -> None:
    """Show dead letters with all that they say: properties, headers and body."""
    wanted = _wanted(ids, automation, reason, request_id)

    async def work() -> tuple[list[dict[str, Any]], str | None]:
        async with dead_letter_queue(load_settings()) as queue:
            found = [everything_of(letter) async for step in queue.find(wanted) for letter in step.done]
            return found, queue.incomplete

    found, incomplete = run(work())
    if as_json:
        print_json(found)
    else:
        for fields in found:
            _print_letter(fields)
    _finish(wanted, {fields["id"] for fields in found}, incomplete)


@app.command()
def replay(
    ids: Ids = None,
    automation: Automation = None,
    reason: Reason = None,
    request_id: RequestId = None,
    everything: All = False,
) -> None:
    """Publish dead letters again, to where they came from.

    Each leaves the queue when its message is confirmed there: nothing is
    lost however this ends, and it may be repeated at any time.
    A request that failed is done anew. A `deadline` of its own that is
    over is taken out; the automation's holds. What no queue takes stays.
    """
    wanted = _wanted(ids, automation, reason, request_id, everything=everything)

    async def work() -> Done:
        async with platform() as p, dead_letter_queue(p.settings) as queue:
            became = await _follow("Replaying dead letters", queue, queue.replay(wanted, p.mongo))
            await note(p.audit, p.actor, "dead_letters.replayed", wanted, became)
            return became

    became = run(work())
    err.print(f"Replayed {_letters(len(became.done))}.")
    _finish(wanted, _ids(became), became.incomplete)
    if became.kept:
        raise typer.Exit(1)


@app.command()
def drop(
    ids: Ids = None,
    automation: Automation = None,
    reason: Reason = None,
    request_id: RequestId = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good; it says how many and asks before it does."""
    wanted = _wanted(ids, automation, reason, request_id, everything=everything)
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on; say --yes")

    async def count() -> int:
        async with dead_letter_queue(load_settings()) as queue:
            found = sum([len(step.done) async for step in queue.find(wanted)])
            if queue.incomplete is not None:
                raise BrokerError(queue.incomplete)
            return found

    async def work(most: int) -> Done:
        async with platform() as p, dead_letter_queue(p.settings) as queue:
            became = await _follow("Dropping dead letters", queue, queue.drop(wanted, most))
            await note(p.audit, p.actor, "dead_letters.dropped", wanted, became)
            return became

    most = sys.maxsize
    if not yes:  # and then no more than were counted: letters may come meanwhile
        most = run(count())
        if most:
            typer.confirm(f"Drop {_letters(most)} for good?", abort=True, err=True)
    became = run(work(most))
    err.print(f"Dropped {_letters(len(became.done))}.")
    _finish(wanted, _ids(became), became.incomplete)


async def _follow(description: str, queue: DeadLetterQueue, steps: AsyncIterator[Step]) -> Done:
    """Show the progress of going through the queue, and each letter that has to stay."""
    became = Done()
    with Progress(console=err) as progress:
        task = progress.add_task(description, total=queue.count)
        async for step in steps:
            became.done.extend(letter.id for letter in step.done)
            became.kept.extend(Kept(letter.id, why) for letter, why in step.kept)
            for letter, why in step.kept:
                progress.console.print(f"{letter.id}: kept: {printable(why)}", highlight=False, markup=False)
            progress.update(task, completed=step.seen)
    return replace(became, incomplete=queue.incomplete)


def _ids(became: Done) -> set[str]:
    return {*became.done, *(kept.id for kept in became.kept)}


def _wanted(
    ids: list[str] | None,
    automation: str | None,
    reason: str | None,
    request_id: str | None,
    *,
    everything: bool = False,
) -> Wanted:
    for given in ids or ():
        if ID_PATTERN.fullmatch(given) is None:
            raise typer.BadParameter(f"{given!r} is no dead letter's id; expected 12 hexadecimal digits")
    wanted = Wanted(frozenset(ids or ()), automation, reason, request_id)
    if wanted == Wanted() and not everything:
        raise typer.BadParameter("say which: by ids, --automation, --reason or --request-id")
    return wanted


def _finish(wanted: Wanted, found: set[str], incomplete: str | None) -> None:
    """Fail if letters were not read that may be meant, or if ids are not there."""
    missing = sorted(wanted.ids - found)
    if incomplete is not None and (missing or not wanted.ids):
        raise BrokerError(incomplete)
    if missing:
        raise NotFoundError(f"no such dead letter: {', '.join(missing)}")


def printable(text: str) -> str:
    """Text that is safe on a terminal: automations choose what stands in a message."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _row(fields: dict[str, Any]) -> list[str]:
    at = fields["died_at"] or fields["published_at"]
    named = [fields[name] for name in ("automation_id", "type", "request_id", "reason")]
    return [fields["id"], moment(at) if at else "-", *(escape(printable(text)) for text in named)]


def _print_letter(fields: dict[str, Any]) -> None:
    facts = {**fields, **{f"header {name}": value for name, value in fields["headers"].items()}}
    kept = {name: value for name, value in facts.items() if value not in (None, "")}
    rows = [[escape(printable(n)), _cell(v)] for n, v in kept.items() if n not in {"headers", *BODY_FIELDS}]
    print_table("Dead letter", ["", ""], rows)
    if "body_base64" in fields:
        err.print("The body is not UTF-8; in base64:")
    body = next(fields[name] for name in BODY_FIELDS if name in fields)
    text = json.dumps(body, indent=2, ensure_ascii=False) if "body" in fields else body
    out.print(f"{printable(text)}\n", markup=False, highlight=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return moment(value)
    return escape(printable(value if isinstance(value, str) else json.dumps(value, default=str)))


def _letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"
