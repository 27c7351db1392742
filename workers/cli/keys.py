"""`keyway keys`: the API keys of automations. A key is read from a prompt, standard input or a file."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.progress import Progress

from contracts.messages import KeyStatus
from infra.errors import PlatformError
from workers.cli.key_facts import facts, moment
from workers.cli.session import JsonOption, Platform, err, out, platform, print_json, print_table, run
from workers.keys.facts import TIERS, KeyFilter, KeyView, Tier, find_key, find_keys, warnings
from workers.keys.import_file import CSV_COLUMNS, NewKey, read_keys
from workers.keys.key import Key, Limits
from workers.keys.limits import room, utilisation
from workers.keys.registry import DEFAULT_BASE_URL

app = typer.Typer(help="The API keys of automations.", no_args_is_help=True)

Automation = Annotated[str, typer.Argument(help="The automation's id.")]
Alias = Annotated[str, typer.Argument(help="The key's name, such as Primary.")]


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
    new = NewKey(1, automation, alias, secret, limits, base_url, TIERS.index(tier))

    async def work() -> str:
        async with platform() as p:
            return (await p.key_changes(with_vault=True).add(new)).key.id

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
    try:
        keys = read_keys(file.read_text(encoding="utf-8"))
    except (PlatformError, UnicodeDecodeError) as error:
        raise PlatformError(f"{file}: {error}") from None

    async def work() -> int:
        failed = 0
        async with platform() as p:
            changes = p.key_changes(with_vault=True)
            with Progress(console=err) as progress:
                for new in progress.track(keys, description="Importing keys"):
                    imported = await changes.import_one(new)
                    if imported.problem is not None:
                        failed += 1
                        line = f"line {imported.line}: {imported.problem}"
                        progress.console.print(line, highlight=False, markup=False)
        return failed

    failed = run(work())
    err.print(f"Imported {len(keys) - failed} of {len(keys)} keys.")
    if failed:
        raise typer.Exit(1)


@app.command("list")
def list_(
    automation: Annotated[str | None, typer.Argument(help="Only this automation's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List keys with their status and what is used of their limits."""

    async def work() -> list[KeyView]:
        async with platform() as p:
            if automation is not None:
                await p.keys().automation(automation)
            return await find_keys(p.mongo, KeyFilter(automation), most=None, history=True)

    listed = run(work())
    if as_json:
        print_json([view.fields for view in listed])
    elif not listed:
        err.print(f"There are no keys yet. Add one: keyway keys add {automation or 'AUTOMATION'} Primary")
    else:
        rows = [_row(view) for view in listed]
        print_table("Keys", ["automation", "key", "ends in", "status", "used>", "latency>", "reason"], rows)


@app.command()
def show(automation: Automation, alias: Alias, as_json: JsonOption = False) -> None:
    """Show one key: its status and since when, what is used of its limits, its health, and its history."""

    async def work() -> KeyView:
        async with platform() as p:
            return await _find(p, automation, alias)

    view = run(work())
    if as_json:
        print_json(view.fields)
        return
    print_table(f"{automation}/{alias}", ["", ""], facts(view.document, view.key, view.now))
    history = [
        [moment(entry["at"]), f"{entry['from']} → {entry['to']}", entry["reason"], entry["actor"]]
        for entry in view.document["history"]
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
            view = await _find(p, automation, alias)
            await p.key_changes().change(view, limits=changed, tier=tier)

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
            await p.key_changes().remove(await _find(p, automation, alias))

    run(work())
    err.print(f"Removed {automation}/{alias}.")


@app.command()
def check(
    automation: Annotated[str | None, typer.Argument(help="Only this automation's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the provider whether it takes each key (`GET /models`, which costs nothing)."""
    from workers.keys.probes import ProbeResult

    async def work() -> list[tuple[Key, ProbeResult]]:
        async with platform() as p:
            changes = p.key_changes(with_vault=True)
            views = await find_keys(p.mongo, KeyFilter(automation), most=None)
            with Progress(console=err, transient=True) as progress:
                return [
                    (view.key, await changes.check(view))
                    for view in progress.track(views, description="Checking keys")
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
            master_key = next(iter(p.settings.master_keys))
            after = {"keys": done, "master_key": master_key}
            await p.audit.write(p.actor, "keys.re_encrypted", "all keys", after=after)
        return done

    err.print(f"Re-encrypted {run(work())} keys.")


def _row(view: KeyView) -> list[str]:
    key, now = view.key, view.now
    return [
        key.automation_id,
        key.alias,
        f"…{view.document['last_four']}",
        key.status,
        f"{utilisation(key, room(key, now)):.0%}",
        f"{key.latency_ms:.0f} ms" if key.latency_ms else "-",
        "; ".join([*(f"warning: {line}" for line in warnings(key, now)), key.status_reason]),
    ]


def _set_status(automation: str, alias: str, to: KeyStatus, reason: str) -> None:
    async def work() -> None:
        async with platform() as p:
            await p.key_changes().set_status(await _find(p, automation, alias), to, reason)

    run(work())
    err.print(f"{automation}/{alias} is {to}.")


async def _find(p: Platform, automation: str, alias: str) -> KeyView:
    """One key; where there is none, whether it is the automation that is missing is said."""
    await p.keys().automation(automation)
    return await find_key(p.mongo, automation, alias)


def _read_secret(key_file: Path | None) -> SecretStr:
    if key_file is not None:
        return SecretStr(key_file.read_text(encoding="utf-8").strip())
    if sys.stdin.isatty():
        return SecretStr(typer.prompt("API key", hide_input=True, err=True))
    return SecretStr(sys.stdin.read().strip())
