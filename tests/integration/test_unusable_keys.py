"""A key that is stored wrong harms itself alone: it is stopped with the reason, and the others serve."""

import json
import secrets
from typing import Any

import pytest
from pydantic import SecretStr

from contracts import Keyway
from contracts.errors import NoUsableKeyError
from infra.vault import Vault
from tests.console import Console
from tests.harness import World, eventually
from tests.lessee import add_bot, signed_in
from tests.scraped import scrape, services
from workers.keys.registry import secret_context

BAD_URL = "https://api.example.com:44e/v1"
HELLO = [{"role": "user", "content": "hello"}]


async def edit(world: World, bot: str, alias: str, **changes: Any) -> None:
    """Change a key's document by hand, as neither Keyway nor the schema would."""
    await world.mongo.keys.update_one(
        {"automation_id": bot, "alias": alias}, {"$set": changes}, bypass_document_validation=True
    )


async def becomes(world: World, bot: str, alias: str, status: str) -> str:
    """Wait for a key's status; its reason."""

    async def there() -> bool:
        return bool((await world.key(bot, alias))["status"] == status)

    await eventually(there, f"{alias} {status}")
    return str((await world.key(bot, alias))["status_reason"])


async def sealed(world: World, bot: str, alias: str, secret: str) -> dict[str, Any]:
    context = secret_context(bot, (await world.key(bot, alias))["_id"])
    return dict(Vault(world.settings.master_keys).seal(secret.encode(), context).document())


async def generate(keyway: Keyway) -> str | None:
    result = await keyway.generate("/chat/completions", model="gpt-4o-mini", messages=HELLO, timeout=120)
    return result.key_alias


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("base_url", "wrong_base_url"), ("characters", "wrong_api_key_characters")],
)
async def test_a_key_that_no_call_can_be_made_with_is_stopped_and_the_next_one_serves(
    shared: World, kind: str, reason: str, *, is_stream: bool
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Broken")
    await shared.add_key(bot, "Whole")
    if kind == "base_url":
        changes: dict[str, Any] = {"base_url": BAD_URL}
    else:
        changes = {"secret": await sealed(shared, bot, "Broken", f"sk-{secrets.token_hex(4)}\r\nx-evil: 1")}
    # A tier of its own, so that it is taken first.
    await edit(shared, bot, "Broken", **changes)
    await edit(shared, bot, "Whole", tier=1)
    async with shared.client(bot) as keyway:
        if is_stream:
            asked = keyway.stream("/chat/completions", model="gpt-4o-mini", messages=HELLO, timeout=120)
            async with asked as stream:
                async for _ in stream:
                    pass
            assert stream.result is not None
            assert stream.result.key_alias == "Whole"
        else:
            assert await generate(keyway) == "Whole"
        assert await becomes(shared, bot, "Broken", "error") == f"no call can be made with the key: {reason}"
        assert await generate(keyway) == "Whole"
    first, *_ = await shared.accounted(bot, 3)
    assert (first["key_alias"], first["outcome"], first["error_code"]) == ("Broken", "auth_failed", reason)
    assert first["http_status"] is None
    assert first["total_tokens"] == 0


async def test_an_automation_whose_only_key_can_not_be_called_is_told_so_and_not_that_we_failed(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Broken")
    await edit(shared, bot, "Broken", base_url=BAD_URL)
    async with shared.client(bot) as keyway:
        with pytest.raises(NoUsableKeyError):
            await generate(keyway)


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": {"master_key": "test", "nonce": b"123456789012", "ciphertext": b"x" * 40}},
        {"secret": "gone"},
        {"limits": {"requests_per_minute": "many"}},
        {"limits": {"tokens_per_day": -(2**62)}},
        {"tier": -7},
        {"status": "paused"},
        {"window": "now"},
    ],
    ids=["undecryptable", "no-secret", "limit-text", "limit-negative", "tier", "status", "window"],
)
async def test_a_key_whose_document_is_broken_keeps_none_from_the_others(
    shared: World, console: Console, changes: dict[str, Any]
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Broken")
    await shared.add_key(bot, "Whole")
    await edit(shared, bot, "Broken", **changes)
    async with shared.client(bot) as keyway:
        for _ in range(3):
            assert await generate(keyway) == "Whole"
    status, listed, errors = await shared.cli("keys", "list", bot, "--json")
    assert (status, errors) == (0, "")
    assert {key["alias"] for key in json.loads(listed)} == {"Broken", "Whole"}
    for path in (f"/api/keys?automation_id={bot}", "/api/overview"):
        answer = await console.admin.call("GET", path)
        assert answer.status == 200, (path, answer.text)
    (accounting,) = services(shared, "accounting")

    async def told() -> bool:
        return (await scrape([accounting])).sum("keyway_key_status", automation=bot, key="Whole") == 1

    await eventually(told, "the whole key in the metrics", every_s=0.5)


async def test_broken_keys_that_are_due_keep_no_other_from_its_probe(shared: World) -> None:
    bot = await shared.add_automation()
    for alias in ("Address", "Secret", "Alias", "Whole"):
        await shared.add_key(bot, alias, {"invalid": True} if alias == "Whole" else None)
    async with shared.client(bot) as keyway:
        await edit(shared, bot, "Address", base_url=BAD_URL, status="error")
        await edit(shared, bot, "Secret", secret=None, status="error")
        await edit(shared, bot, "Alias", status="error")
        with pytest.raises(NoUsableKeyError):
            await generate(keyway)
        await becomes(shared, bot, "Whole", "error")
        at = (await shared.key(bot, "Whole"))["status_since"]
        due = {"probe": {"at": at, "interval_s": 30, "cause": "refused"}}
        await edit(shared, bot, "Address", **due)
        await edit(shared, bot, "Secret", **due)
        await shared.mongo.keys.update_one(
            {"automation_id": bot, "alias": "Alias"},
            {"$set": due, "$unset": {"alias": ""}},
            bypass_document_validation=True,
        )
        await shared.script(bot, "Whole")
        await edit(shared, bot, "Whole", **{"probe.at": at})
        await becomes(shared, bot, "Whole", "active")

        async def was_told() -> bool:
            told = (await shared.key(bot, "Address"))["probe"]
            return str(told.get("last_reason")).startswith("the key's base URL is wrong: ")

        await eventually(was_told, "a probe that says what is wrong with the address")
        assert await generate(keyway) == "Whole"


async def test_a_key_with_a_wrong_address_is_not_lent_and_is_stopped(leasing: World) -> None:
    bot = await add_bot(leasing)
    await leasing.add_key(bot, "Broken")
    await edit(leasing, bot, "Broken", base_url=BAD_URL)
    async with signed_in(leasing, bot) as lessee:
        code, _ = await lessee.refusal()
    assert code == "no_usable_key"
    assert (await becomes(leasing, bot, "Broken", "error")).startswith("the key's base URL is wrong: ")


async def test_a_wrong_address_is_refused_where_it_enters(shared: World) -> None:
    bot = await shared.add_automation()
    status, _, errors = await shared.cli(
        "keys", "add", bot, "Broken", "--base-url", BAD_URL, stdin="sk-test-0123456789\n"
    )
    assert status != 0
    assert "address can't be one" in errors.replace("\n", " ")
    table = f"automation,alias,api_key,base_url\n{bot},Broken,sk-test-0123456789,{BAD_URL}\n"
    (shared.folder / "keys.csv").write_text(table)
    status, out, errors = await shared.cli("keys", "import", "keys.csv")
    assert status != 0
    assert "address can't" in (out + errors).replace("\n", " ")
    assert await shared.mongo.keys.count_documents({"automation_id": bot}) == 0
    with pytest.raises(Exception, match="address can't be one"):
        await shared.keys.add(bot, "Broken", SecretStr("sk-test-0123456789"), base_url=BAD_URL)
