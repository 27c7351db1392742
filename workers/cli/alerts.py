"""`keyway alerts`: what a person should know, and whether people are told."""

import asyncio
import socket
from typing import Annotated

import typer

from infra.alerts import list_alerts
from infra.errors import SettingsError
from infra.mongo import Document
from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, err, load_settings, platform, print_json, print_table, run

app = typer.Typer(
    help="What a person should know: keys, pools, budgets, lanes; and whether people are told.",
    no_args_is_help=True,
)

#: What scripts are told of an alert.
FIELDS = (
    "kind",
    "severity",
    "automation_id",
    "subject",
    "label",
    "window",
    "reason",
    "raised_at",
    "last_at",
    "times",
    "resolved_at",
    "delivery",
    "delivery_attempts",
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
            return await list_alerts(p.mongo, everything=everything, limit=limit)

    alerts = run(work())
    if as_json:
        print_json([{field: alert[field] for field in FIELDS} for alert in alerts])
    elif not alerts:
        err.print("No alerts." if everything else "No open alerts; --all lists resolved ones.")
    else:
        columns = ["raised (UTC)", "severity", "kind", "of", "why", "state", "delivery"]
        print_table("Alerts", columns, [_row(alert) for alert in alerts])


@app.command("test")
def send_test(as_json: JsonOption = False) -> None:
    """Send a test message to every target of KEYWAY_ALERT_URLS, and tell which of them have it."""
    # It takes a fifth of a second to load.
    from infra.alert_targets import alert_targets

    targets = alert_targets(load_settings().alert_urls)
    if not targets:
        raise SettingsError("KEYWAY_ALERT_URLS is empty: nobody is told of alerts")
    body = f"This is a test, sent by `keyway alerts test` on {socket.gethostname()}."

    async def work() -> list[str | None]:
        return await asyncio.gather(*(target.send("Keyway: a test", body, "info") for target in targets))

    failures = run(work())
    told = [
        {"target": target.name, "delivered": failure is None, "error": failure}
        for target, failure in zip(targets, failures, strict=True)
    ]
    if as_json:
        print_json(told)
    else:
        rows = [[str(each["target"]), str(each["error"] or "delivered")] for each in told]
        print_table("Targets", ["target", "result"], rows)
    if failed := [target.name for target, failure in zip(targets, failures, strict=True) if failure]:
        err.print(f"error: not delivered to {', '.join(failed)}", markup=False, highlight=False)
        raise typer.Exit(1)


def _row(alert: Document) -> list[str]:
    of = f"{alert['automation_id']}/{alert['label']}" if alert["automation_id"] else alert["label"]
    return [
        moment(alert["raised_at"]),
        alert["severity"],
        alert["kind"],
        of,
        alert["reason"],
        "open" if alert["resolved_at"] is None else f"resolved {moment(alert['resolved_at'])}",
        (alert["delivery"] or "—").replace("_", " "),
    ]
