"""A backup, taken while Keyway works, and restored into an empty database and an empty vhost.

`mongodump` is in no registry that is reached from here. The dump has its form, a file of BSON documents for
each collection, all as they were at one moment, as `mongodump --oplog` gives them.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bson
from aio_pika import connect_robust

from contracts.names import lane_queue
from infra.management import management
from infra.mongo import Document, Mongo
from infra.mongo import connect as connect_mongo
from infra.settings import Settings
from tests.collector import Collector
from tests.harness import Service, World

REQUESTS = 40


async def dump(mongo: Mongo) -> dict[str, bytes]:
    """Each collection's file, as `mongodump` writes it."""
    names = await mongo.database.list_collection_names()
    files = {}
    async with mongo.snapshot() as session:
        for name in names:
            found = mongo.database[name].find({}, session=session)
            files[name] = b"".join([bson.encode(each) async for each in found])
    return files


async def restore(mongo: Mongo, files: dict[str, bytes]) -> None:
    """Insert each collection, as `mongorestore` does; what is empty is left to `keyway init`."""
    for name, content in files.items():
        if documents := bson.decode_all(content):
            await mongo.database[name].insert_many(documents)


async def definitions(admin: Any, vhost: str, automation: str) -> dict[str, Any]:
    """What `rabbitmqctl export_definitions` has of a vhost, and of one automation's user."""
    everything = await admin.call("GET", "definitions")
    kinds = ("permissions", "topic_permissions", "queues", "exchanges", "bindings")
    return {
        **{kind: [one for one in everything[kind] if one["vhost"] == vhost] for kind in kinds},
        "users": [user for user in everything["users"] if user["name"] == automation],
    }


@asynccontextmanager
async def elsewhere(world: World, exported: dict[str, Any]) -> AsyncIterator[World]:
    """An empty database, and a vhost with what was exported."""
    name = f"{world.settings.mongo_database}-restored"
    amqp = urlsplit(world.environment["KEYWAY_AMQP_URL"])._replace(path=f"/{name}").geturl()
    environment = {**world.environment, "KEYWAY_AMQP_URL": amqp, "KEYWAY_MONGO_DATABASE": name}
    own = {key.removeprefix("KEYWAY_").lower(): environment[key] for key in environment if "KEYWAY" in key}
    settings = Settings.model_validate(own)
    async with (
        management(settings) as admin,
        connect_mongo(environment["KEYWAY_MONGO_URL"], name) as mongo,
    ):
        await admin.ensure_vhost()
        for kind, found in exported.items():
            exported[kind] = [{**one, "vhost": name} if "vhost" in one else one for one in found]
        await admin.call("POST", "definitions", exported)
        async with await connect_robust(amqp) as connection:
            other = replace(
                world,
                settings=settings,
                environment=environment,
                mongo=mongo,
                admin=admin,
                connection=connection,
                services=[],
            )
            try:
                yield other
            finally:
                await asyncio.gather(*(service.stop() for service in other.services))
                await mongo.database.client.drop_database(name)
                await admin.call("DELETE", "vhosts/{vhost}")


async def totals(mongo: Mongo, automation: str) -> list[Document]:
    found = mongo.usage_daily.find({"automation_id": automation})
    return [total async for total in found.sort("_id", 1)]


async def test_what_is_restored_has_the_same_totals_and_serves_with_the_old_keys_and_tokens(
    shared: World, tmp_path: Path
) -> None:
    bot = await shared.add_automation()
    await shared.add_key(bot, "Primary")
    async with Collector(shared, bot) as collector:
        for number in range(REQUESTS):
            await collector.ask(f"r-{number}")
        await shared.accounted(bot, 1)
        files = await dump(shared.mongo)
        await collector.have(REQUESTS)
    await shared.accounted(bot, REQUESTS)
    vhost = urlsplit(shared.environment["KEYWAY_AMQP_URL"]).path[1:]
    exported = await definitions(shared.admin, vhost, bot)
    await shared.admin.call("DELETE", f"users/{bot}")

    async with elsewhere(shared, exported) as restored:
        await restore(restored.mongo, files)
        begun = await Service.start(tmp_path / "init.log", restored.environment, "workers.cli.main", "init")
        assert await begun.process.wait() == 0, begun.log.read_text()
        rows = len(await restored.ledger(bot))
        assert 1 <= rows <= REQUESTS
        for total in await totals(restored.mongo, bot):
            assert total["attempts"] == rows
        arguments = ("usage", "rebuild", "--automation", bot, "--dry-run", "--json")
        status, stdout, stderr = await restored.cli(*arguments)
        assert status == 0, stderr
        assert json.loads(stdout)["differences"] == []
        await restored.start_worker()
        async with restored.client(bot) as keyway:
            assert (await keyway.generate("/moderations", input="hello")).status == "succeeded"
        assert {queue["name"] for queue in await restored.admin.queues()} >= {lane_queue(bot), "accounting"}
