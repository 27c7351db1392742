"""`keyway leases`: which keys are lent, to whom, until when."""

from dataclasses import asdict
from typing import Annotated

import typer

from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, err, platform, print_json, print_table, run
from workers.console.leases import LeaseFilter, LeaseList, LeaseView

app = typer.Typer(help="Keys that automations have to call the provider themselves.", no_args_is_help=True)


@app.command("list")
def list_(
    automation: Annotated[str | None, typer.Option(help="Only this automation's.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Only those that are not over.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List leases of the last 30 days, the newest first."""

    async def work() -> list[LeaseView]:
        async with platform() as p:
            return await LeaseList(p.mongo).read(LeaseFilter(automation, live=live), most=limit)

    leases = run(work())
    if as_json:
        print_json([asdict(lease) for lease in leases])
    elif not leases:
        err.print(
            "No leases. An automation may ask for one after: keyway automations set NAME --allow-leases"
        )
    else:
        columns = ["granted (UTC)", "until", "of", "lease", "status", "tokens>", "reported>"]
        print_table("Leases", columns, [_row(lease) for lease in leases])


def _row(lease: LeaseView) -> list[str]:
    return [
        moment(lease.granted_at),
        moment(lease.expires_at),
        f"{lease.automation_id}/{lease.key_alias}",
        lease.lease_id,
        lease.status,
        f"{lease.tokens:,}",
        f"{lease.reported_tokens:,}" if lease.reports else "-",
    ]
