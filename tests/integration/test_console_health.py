"""Whether the console is alive and ready, while what it stands on comes and goes."""

from urllib.parse import urlsplit

from tests.chaos.proxy import proxy_to
from tests.console import open_console
from tests.harness import World, eventually


async def test_it_is_alive_but_not_ready_while_mongodb_is_away(world: World) -> None:
    url = urlsplit(world.settings.mongo_url.get_secret_value())
    assert url.port is not None
    async with proxy_to(url.port) as proxy:
        proxied = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        async with open_console(world, mongo_url=proxied) as console:
            answers = []

            async def is_ready() -> bool:
                answers.append(await console.nobody.call("GET", "/readyz"))
                return bool(answers[-1].status == 200)

            await eventually(is_ready, "it is ready")
            everything = {"status": "ok", "mongodb": True, "rabbitmq": True, "management": True}
            assert answers[-1].json == everything
            proxy.stall()
            away = await console.nobody.call("GET", "/readyz")
            assert (away.status, away.json["mongodb"], away.json["rabbitmq"]) == (503, False, True)
            assert (await console.nobody.call("GET", "/healthz")).json == {"status": "ok"}
            proxy.resume()
            await eventually(is_ready, "it is ready again")
