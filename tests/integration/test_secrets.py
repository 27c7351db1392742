"""No plaintext API key or service token anywhere that Keyway writes."""

import json
from pathlib import Path
from typing import Any

import bson
from aio_pika import ExchangeType

from contracts.errors import GenerationError, NoUsableKeyError
from tests.harness import World, eventually


def texts(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_no_plaintext_key_is_in_any_collection_log_message_or_command_output(world: World) -> None:
    bot = await world.add_automation()
    await world.start_accounting()
    await world.start_worker(KEYWAY_LOG_LEVEL="debug")
    heard: list[bytes] = []
    async with world.connection.channel() as channel:
        tap = await channel.declare_queue(exclusive=True)
        for exchange in ("requests", "events", "dead"):
            await tap.bind(await channel.declare_exchange(exchange, ExchangeType.TOPIC, durable=True), "#")

        async def hear(message: Any) -> None:
            heard.append(message.body + str(message.headers).encode())

        await tap.consume(hear, no_ack=True)
        printed: list[str] = []
        await world.add_key(bot, "Primary", {"invalid": True})
        await world.add_key(bot, "Secondary", {"error_rate": 1.0})
        await world.add_key(bot, "Backup")
        cli_key = "sk-test-cli-0123456789abcdef0123456789abcdef"
        world.api_keys.append(cli_key)
        for arguments, stdin in (
            (("keys", "add", bot, "Cli"), cli_key),
            (("keys", "add", bot, "Again"), cli_key),
            (("keys", "list", "--json"), ""),
            (("keys", "check"), ""),
            (("automations", "list", "--json"), ""),
            (("settings",), ""),
            (("usage", "--json"), ""),
            (("generate", bot, "hello", "--json"), ""),
        ):
            _, stdout, stderr = await world.cli(*arguments, stdin=stdin, KEYWAY_LOG_LEVEL="debug")
            printed.append(stdout + stderr)
        async with world.client(bot) as keyway:
            for _ in range(5):
                try:
                    result = await keyway.generate(
                        "/chat/completions",
                        model="gpt-4o-mini",
                        messages=[{"role": "user", "content": "hello"}],
                    )
                    heard.append(result.model_dump_json().encode())
                except GenerationError as error:
                    heard.append(repr(error).encode() + error.result.model_dump_json().encode())
        await world.accounted(bot, 6)

    places = texts(world.folder) | {"messages": b"\n".join(heard), "commands": "\n".join(printed).encode()}
    for name in await world.mongo.database.list_collection_names():
        places[name] = b"".join([bson.encode(d) async for d in world.mongo.database[name].find()])
    assert len(places["messages"]) > 1000
    assert len(places["keys"]) > 1000
    secrets = [*world.api_keys, *(token.get_secret_value() for token in world.tokens.values())]
    for secret in secrets:
        for place, content in places.items():
            assert secret.encode() not in content, f"a secret is in {place}"
            assert json.dumps(secret)[1:-1].encode() not in content


async def test_a_ciphertext_that_is_moved_to_another_key_opens_nothing_and_blames_no_key(
    shared: World,
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    await shared.add_key(bot, "Backup")
    stolen = await shared.mongo.keys.find_one({"automation_id": bot, "alias": "Primary"})
    assert stolen is not None
    moved = {"$set": {"secret": stolen["secret"]}}
    await shared.mongo.keys.update_one({"automation_id": bot, "alias": "Backup"}, moved)
    async with shared.client(bot) as keyway:
        served = {(await keyway.generate("/moderations", input="hello")).key_alias for _ in range(6)}
        assert served == {"Primary"}
        await shared.mongo.keys.delete_one({"_id": stolen["_id"]})

        async def nothing_opens() -> bool:
            try:
                await keyway.generate("/moderations", input="hello")
            except NoUsableKeyError as error:
                return "no master key" in str(error)
            return False

        # Nobody told the workers: what they reserved ahead on it stands for a moment.
        await eventually(nothing_opens, "the key that is left tried, and not opened")
    assert (await shared.key(bot, "Backup"))["status"] == "active"
    assert {call["key"] for call in await shared.journal(bot)} == {f"{bot}-Primary"}
