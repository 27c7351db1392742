"""`keyway keys`: the API keys of automations. A key is read from a prompt, standard input or a file."""

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.progress import Progress

from contracts.messages import KeyStatus
from infra.errors import NotFoundError, PlatformError
from infra.mongo import Document
from infra.vault import Vault
from workers.cli.key_facts import TIERS, Tier, facts, moment, public_fields, warnings
from workers.cli.session import JsonOption, err, out, platform, print_json, print_table, run
from workers.keys.key import Key, Limits
from workers.keys.limits import room, utilisation
from workers.keys.registry import DEFAULT_BASE_URL, open_secret
from workers.keys.reservations import load_keys

app = typer.Typer(help="The API keys of automations.", no_args_is_help=True)

Automation = Annotated[str, typer.Argument(help="The automation's id.")]
Alias = Annotated[str, typer.Argument(help="The key's name, such as Primary.")]

#: Columns of a file to import; the first three are needed.
CSV_COLUMNS = (
    "automation",
    "alias",
    "api_key",
    "rpm",
    "tpm",
    "daily_tokens",
    "max_in_flight",
    "base_url",
    "tier",
)


@app.command()
def add(
    automation: Automation,
    alias: Alias,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens per minute.")] = None,
    daily_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per UTC day.")] = None,
    max_in_flight: Annotated[int | None, typer.Option(min=1, help="Calls at a time.")] = None,
    base_url: Annotated[str, typer.Option(help="The provider's address.")] = DEFAULT_BASE_URL,
    tier: Annotated[
        Tier, typer.Option(help="A lower tier serves only while those above have no room.")
    ] = Tier.PRIMARY,
    key_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Read the key from it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a key. The API key itself is asked for, or read from standard input or --key-file."""
    secret = _read_secret(key_file)
    limits = Limits(rpm, tpm, daily_tokens, max_in_flight)

    async def work() -> str:
        async with platform() as p:
            return await p.keys(with_vault=True).add(
                automation, alias, secret, limits=limits, base_url=base_url, tier=TIERS.index(tier)
            )

    key_id = run(work())
    if as_json:
        print_json({"key_id": key_id, "automation_id": automation, "alias": alias})
    else:
        err.print(f"Added {automation}/{alias} ({key_id}).")


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help=f"CSV with {', '.join(CSV_COLUMNS)}.")
    ],
) -> None:
    """Import keys from a CSV file; what can't be added is named by its line, and the rest is."""
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        unknown = set(reader.fieldnames or ()) - set(CSV_COLUMNS)
        missing = set(CSV_COLUMNS[:3]) - set(reader.fieldnames or ())
        if unknown or missing:
            what = (
                f"unknown {', '.join(sorted(unknown))}"
                if unknown
                else f"missing {', '.join(sorted(missing))}"
            )
            raise PlatformError(f"{file}: columns: {what}; expected {', '.join(CSV_COLUMNS)}")
        rows = list(reader)

    async def work() -> int:
        failed = 0
        async with platform() as p:
            registry = p.keys(with_vault=True)
            with Progress(console=err) as progress:
                for line, row in enumerate(progress.track(rows, description="Importing keys"), start=2):
                    try:
                        await registry.add(
                            row["automation"],
                            row["alias"],
                            SecretStr(row["api_key"]),
                            limits=_limits_of(row),
                            base_url=row.get("base_url") or DEFAULT_BASE_URL,
                            tier=_tier_of(row),
                        )
                    except PlatformError as error:
                        failed += 1
                        progress.console.print(f"line {line}: {error}", highlight=False)
        return failed

    failed = run(work())
    err.print(f"Imported {len(rows) - failed} of {len(rows)} keys.")
    if failed:
        raise typer.Exit(1)


@app.command("list")
def list_(
    automation: Annotated[str | None, typer.Argument(help="Only this automation's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List keys with their status and what is used of their limits."""

    async def work() -> list[tuple[Document, Key, float]]:
        async with platform() as p:
            documents = await p.keys().list(automation)
            seen: dict[str, tuple[Key, float]] = {}
            for owner in {document["automation_id"] for document in documents}:
                loaded, now = await load_keys(p.mongo, owner)
                seen |= {key.id: (key, now or 0.0) for key in loaded}
            return [(document, *seen[document["_id"]]) for document in documents if document["_id"] in seen]

    listed = run(work())
    if as_json:
        print_json([public_fields(document, key, now) for document, key, now in listed])
    elif not listed:
        err.print(f"There are no keys yet. Add one: keyway keys add {automation or 'AUTOMATION'} Primary")
    else:
        rows = [
            [
                document["automation_id"],
                document["alias"],
                f"…{document['last_four']}",
                key.status,
                f"{utilisation(key, room(key, now)):.0%}",
                f"{key.latency_ms:.0f} ms" if key.latency_ms else "-",
                "; ".join([*warnings(key, now), key.status_reason]),
            ]
            for document, key, now in listed
        ]
        print_table("Keys", ["automation", "key", "ends in", "status", "used>", "latency>", "reason"], rows)


@app.command()
def show(automation: Automation, alias: Alias, as_json: JsonOption = False) -> None:
    """Show one key: its status and since when, what is used of its limits, its health, and its history."""

    async def work() -> tuple[Document, Key, float]:
        async with platform() as p:
            document = await p.keys().find(automation, alias)
            loaded, now = await load_keys(p.mongo, automation)
            key = next((key for key in loaded if key.id == document["_id"]), None)
            if key is None or now is None:
                raise NotFoundError(f"{automation}/{alias} was removed just now")
            return document, key, now

    document, key, now = run(work())
    if as_json:
        print_json(public_fields(document, key, now))
        return
    print_table(f"{automation}/{alias}", ["", ""], facts(document, key, now))
    history = [
        [moment(entry["at"]), f"{entry['from']} → {entry['to']}", entry["reason"], entry["actor"]]
        for entry in document["history"]
    ]
    if history:
        out.print()
        print_table("History", ["when (UTC)", "status", "why", "by"], history)
    else:
        err.print("Its status has never changed.")


@app.command("set")
def set_(
    automation: Automation,
    alias: Alias,
    rpm: Annotated[int | None, typer.Option(min=0, help="Requests per minute; 0: no limit.")] = None,
    tpm: Annotated[int | None, typer.Option(min=0, help="Tokens per minute; 0: no limit.")] = None,
    daily_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens per UTC day; 0: no limit.")] = None,
    max_in_flight: Annotated[int | None, typer.Option(min=0, help="Calls at a time; 0: no limit.")] = None,
    tier: Annotated[
        Tier | None, typer.Option(help="A lower tier serves only while those above have no room.")
    ] = None,
) -> None:
    """Change a key's limits or tier; what is not named stays as it is."""
    named = {
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "tokens_per_day": daily_tokens,
        "max_in_flight": max_in_flight,
    }
    changed = {name: value or None for name, value in named.items() if value is not None}
    if not changed and tier is None:
        raise typer.BadParameter("name at least one of --rpm, --tpm, --daily-tokens, --max-in-flight, --tier")

    async def work() -> None:
        async with platform() as p:
            position = None if tier is None else TIERS.index(tier)
            await p.keys().change(automation, alias, limits=changed, tier=position)

    run(work())
    err.print(f"Changed {automation}/{alias}.")


@app.command()
def disable(
    automation: Automation, alias: Alias, reason: Annotated[str, typer.Option(help="Kept.")] = "by hand"
) -> None:
    """Take a key out of use until it is enabled again."""
    _set_status(automation, alias, "disabled", reason)


@app.command()
def enable(
    automation: Automation, alias: Alias, reason: Annotated[str, typer.Option(help="Kept.")] = "by hand"
) -> None:
    """Bring a key back into use, from whatever status."""
    _set_status(automation, alias, "active", reason)


@app.command()
def remove(automation: Automation, alias: Alias) -> None:
    """Remove a key; its usage stays in the books."""

    async def work() -> None:
        async with platform() as p:
            await p.keys().remove(automation, alias)

    run(work())
    err.print(f"Removed {automation}/{alias}.")


@app.command()
def check(
    automation: Annotated[str | None, typer.Argument(help="Only this automation's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the provider whether it takes each key (`GET /models`, which costs nothing)."""
    from workers.keys.probes import ProbeResult, probe

    async def probed(vault: Vault, key: Key) -> ProbeResult:
        return await probe(key.base_url, open_secret(vault, key.automation_id, key.id, key.secret))

    async def work() -> list[tuple[Key, ProbeResult]]:
        async with platform() as p:
            vault = Vault(p.settings.master_keys)
            found = p.mongo.keys.find({} if automation is None else {"automation_id": automation})
            keys = [Key.from_document(document, 0.0) async for document in found]
            with Progress(console=err, transient=True) as progress:
                return [
                    (key, await probed(vault, key))
                    for key in progress.track(keys, description="Checking keys")
                ]

    checked = run(work())
    if as_json:
        fields = [
            {"automation_id": k.automation_id, "alias": k.alias, "ok": r.ok, "reason": r.reason}
            for k, r in checked
        ]
        print_json(fields)
    else:
        rows = [[k.automation_id, k.alias, "ok" if r.ok else "failed", r.reason] for k, r in checked]
        print_table("Keys at their providers", ["automation", "key", "check", "reason"], rows)
    if not all(result.ok for _, result in checked):
        raise typer.Exit(1)


@app.command("re-encrypt")
def re_encrypt() -> None:
    """Bring every key under the first of KEYWAY_MASTER_KEYS; may be stopped and repeated at any time."""

    async def work() -> int:
        done = 0
        async with platform() as p:
            with Progress(console=err) as progress:
                task = progress.add_task("Re-encrypting keys", total=None)
                async for done, total in p.keys(with_vault=True).re_encrypt():
                    progress.update(task, completed=done, total=total)
        return done

    err.print(f"Re-encrypted {run(work())} keys.")


def _set_status(automation: str, alias: str, to: KeyStatus, reason: str) -> None:
    async def work() -> None:
        async with platform() as p:
            await p.keys().set_status(automation, alias, to, reason)

    run(work())
    err.print(f"{automation}/{alias} is {to}.")


def _read_secret(key_file: Path | None) -> SecretStr:
    if key_file is not None:
        return SecretStr(key_file.read_text(encoding="utf-8").strip())
    if sys.stdin.isatty():
        return SecretStr(typer.prompt("API key", hide_input=True, err=True))
    return SecretStr(sys.stdin.read().strip())


def _limits_of(row: dict[str, str]) -> Limits:
    try:
        values = [int(row[name]) if row.get(name) else None for name in CSV_COLUMNS[3:7]]
    except ValueError:
        raise PlatformError("a limit is not a whole number") from None
    if any(value is not None and value < 1 for value in values):
        raise PlatformError("a limit is less than 1")
    return Limits(*values)


def _tier_of(row: dict[str, str]) -> int:
    named = row.get("tier") or Tier.PRIMARY.value
    if named not in set(Tier):
        raise PlatformError(f"tier is {named!r}, expected one of {', '.join(Tier)}")
    return TIERS.index(Tier(named))
