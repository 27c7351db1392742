"""`keyway leases`: which keys are lent, to whom, until when."""

from typing import Annotated

import typer

from infra.mongo import Document
from workers.cli.key_facts import moment
from workers.cli.session import JsonOption, err, platform, print_json, print_table, run

app = typer.Typer(help="Keys that automations have to call the provider themselves.", no_args_is_help=True)

#: What scripts are told of a lease.
FIELDS = (
    "automation_id",
    "key_id",
    "key_alias",
    "model",
    "status",
    "granted_at",
    "expires_at",
    "revoked_at",
    "tokens",
    "reports",
    "reported_tokens",
)


@app.command("list")
def list_(
    automation: Annotated[str | None, typer.Option(help="Only this automation's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List leases of the last 30 days, the newest first."""

    async def work() -> list[Document]:
        async with platform() as p:
            query: Document = {} if automation is None else {"automation_id": automation}
            found = p.mongo.leases.find(query).sort("granted_at", -1).limit(limit)
            return [lease async for lease in found]

    leases = run(work())
    if as_json:
        print_json(
            [{"lease_id": lease["_id"], **{field: lease.get(field) for field in FIELDS}} for lease in leases]
        )
    elif not leases:
        err.print(
            "No leases. An automation may ask for one after: keyway automations set NAME --allow-leases"
        )
    else:
        columns = ["granted (UTC)", "until", "of", "lease", "status", "tokens>", "reported>"]
        print_table("Leases", columns, [_row(lease) for lease in leases])


def _row(lease: Document) -> list[str]:
    return [
        moment(lease["granted_at"]),
        moment(lease["expires_at"]),
        f"{lease['automation_id']}/{lease['key_alias']}",
        lease["_id"],
        lease["status"],
        f"{lease['tokens']:,}",
        f"{lease['reported_tokens']:,}" if lease["reports"] else "-",
    ]
