"""What is changed on the command line stands in the audit log, as what is changed in the console does."""

import asyncio
import getpass
import secrets
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.console import Console
from workers.cli.main import app


# FastStream's, when it connects; where Keyway runs, nobody sees it.
@pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")
async def test_what_the_command_line_changes_is_in_the_audit_log_with_who_and_from_what_to_what(
    console: Console,
) -> None:
    world, model = console.world, f"model-{secrets.token_hex(4)}"
    bot = await world.add_automation()
    api_key = f"sk-audit-{secrets.token_hex(16)}"

    for line in (
        f"keys add {bot} Primary --rpm 60",
        f"keys set {bot} Primary --rpm 30",
        f"keys disable {bot} Primary --reason lost",
        f"keys remove {bot} Primary",
        f"automations set {bot} --deadline-s 60 --daily-budget-usd 5",
        f"automations rotate-token {bot}",
        f"budgets set {bot} --daily-usd 6 --soft",
        f"budgets remove {bot} --window day",
        f"prices set {model} --input 1 --output 2",
        f"prices remove {model}",
    ):
        # Each in a thread with a loop of its own: as many processes would take as many seconds.
        result = await asyncio.to_thread(
            CliRunner().invoke, app, line.split(), input=api_key, env=world.environment
        )
        assert result.exit_code == 0, (line, result.output)

    answer = await console.viewer.call("GET", "/api/audit", params={"limit": "1000"})
    assert api_key not in answer.text
    targets = {bot, f"{bot}/Primary", f"{bot}/daily budget", model}
    entries = [entry for entry in answer.json if entry["target"] in targets]
    assert {entry["actor"] for entry in entries} == {f"cli:{getpass.getuser()}"}

    def changes(action: str) -> list[tuple[Any, Any]]:
        """What changed from what to what, the first change first."""
        return [(e["before"], e["after"]) for e in reversed(entries) if e["action"] == action]

    ((_, added),) = changes("key.added")
    assert (added["requests_per_minute"], added["last_four"]) == (60, api_key[-4:])
    assert changes("key.changed") == [({"requests_per_minute": 60}, {"requests_per_minute": 30})]
    assert changes("key.disabled") == [({"status": "active"}, {"status": "disabled", "reason": "lost"})]
    ((removed, _),) = changes("key.removed")
    assert (removed["status"], removed["last_four"]) == ("disabled", api_key[-4:])
    assert changes("automation.changed") == [({"deadline_s": 600}, {"deadline_s": 60})]
    assert len(changes("automation.rotation_begun")) == 1
    first, second = (
        {"limit_nanousd": 5_000_000_000, "soft_percent": 80, "hard": True},
        {"limit_nanousd": 6_000_000_000, "soft_percent": 80, "hard": False},
    )
    assert changes("budget.set") == [(None, first), (first, second)]
    assert changes("budget.removed") == [(second, None)]
    price = {
        f"{of}_nanousd_per_million": usd * 10**9 for of, usd in (("input", 1), ("output", 2), ("cached", 1))
    }
    assert changes("price.set") == [(None, price)]
    assert changes("price.removed") == [(price, None)]
