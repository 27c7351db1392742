"""`keyway alerts`: what a person should know."""

from typing import Annotated

import typer

from infra.mongo import Document
from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, err, platform, print_json, print_table, run

app = typer.Typer(help="What a person should know: keys that stopped, budgets, prices.", no_args_is_help=True)

#: What scripts are told of an alert.
FIELDS = (
    "kind",
    "automation_id",
    "subject",
    "label",
    "window",
    "reason",
    "raised_at",
    "last_at",
    "times",
    "resolved_at",
)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List open alerts, the newest first."""

    async def work() -> list[Document]:
        async with platform() as p:
            query: Document = {} if everything else {"resolved_at": None}
            found = p.mongo.alerts.find(query).sort("raised_at", -1).limit(limit)
            return [alert async for alert in found]

    alerts = run(work())
    if as_json:
        print_json([{field: alert[field] for field in FIELDS} for alert in alerts])
    elif not alerts:
        err.print("No alerts." if everything else "No open alerts; --all lists resolved ones.")
    else:
        rows = [
            [
                moment(alert["raised_at"]),
                alert["kind"],
                f"{alert['automation_id']}/{alert['label']}",
                alert["reason"],
                "open" if alert["resolved_at"] is None else f"resolved {moment(alert['resolved_at'])}",
            ]
            for alert in alerts
        ]
        print_table("Alerts", ["raised (UTC)", "kind", "of", "why", "state"], rows)
