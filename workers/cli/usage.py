"""`keyway usage`: the books of a day, by key, automation, user or model."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from infra.mongo import Document
from workers.accounting.totals import SUMMED
from workers.cli.session import JsonOption, err, platform, print_json, print_table, run, usd


class Dimension(StrEnum):
    """What usage can be told apart by."""

    KEY = "key"
    AUTOMATION = "automation"
    USER = "user"
    MODEL = "model"


def usage(
    by: Annotated[Dimension, typer.Option(help="What to tell usage apart by.")] = Dimension.KEY,
    day: Annotated[str | None, typer.Option(help="UTC day, YYYY-MM-DD; default: today.")] = None,
    automation: Annotated[str | None, typer.Option(help="Only this automation's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a day used and cost."""
    chosen = _day(day)

    async def work() -> list[Document]:
        async with platform() as p:
            query: Document = {"dimension": by.value, "day": chosen}
            if automation is not None:
                query["automation_id"] = automation
            found = p.mongo.usage_daily.find(query).sort([("automation_id", 1), ("label", 1)])
            return [total async for total in found]

    totals = run(work())
    if as_json:
        fields = ("automation_id", "subject", "label", *SUMMED)
        print_json([{"by": by.value, "day": chosen, **{f: total[f] for f in fields}} for total in totals])
    elif not totals:
        err.print(f'Nothing was used on {chosen}. Send a request: keyway generate AUTOMATION "hello"')
    else:
        print_usage(chosen, by, totals)


def print_usage(day: str, by: Dimension, totals: list[Document]) -> None:
    """The table for people; `*` marks sums in which calls without a known price are missing."""
    rows = [
        [
            *([] if by is Dimension.AUTOMATION else [total["automation_id"]]),
            total["label"],
            str(total["attempts"]),
            str(total["succeeded"]),
            f"{total['prompt_tokens']:,}",
            f"{total['completion_tokens']:,}",
            usd(total["cost_nanousd"]) + ("*" if total["unpriced"] else ""),
            f"{total['latency_ms'] / total['attempts']:.0f} ms",
        ]
        for total in totals
    ]
    named = ["automation"] if by is Dimension.AUTOMATION else ["automation", by.value]
    columns = [*named, "calls>", "ok>", "tokens in>", "tokens out>", "cost>", "latency>"]
    print_table(f"Usage of {day} (UTC)", columns, rows)
    if any(total["unpriced"] for total in totals):
        err.print("* calls to models without a known price are not in the sum")


def _day(text: str | None) -> str:
    if text is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day; expected YYYY-MM-DD") from None
