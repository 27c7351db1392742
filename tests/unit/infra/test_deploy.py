"""What production is started with: docker-compose.yml, .env.sample and the image agree with the code."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from infra.deploy.healthcheck import consumes
from infra.settings import Settings
from workers.cli.main import app
from workers.generation.app import CLOSE_TIMEOUT_S

ROOT = Path(__file__).parents[3]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "infra/deploy/Dockerfile").read_text()
#: Each `NAME=value` of .env.sample.
SAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.sample").read_text(), re.MULTILINE))
#: Each `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, as (name, operator, what follows it).
VARIABLES = set(re.findall(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", COMPOSE))


def mapping(text: str, indent: int) -> dict[str, str]:
    """The entries of a YAML mapping whose keys stand behind so many spaces, each with its value's text."""
    entry = rf"^ {{{indent}}}([\w.-]+):(.*?)(?=^ {{0,{indent}}}\S|\Z)"
    return dict(re.findall(entry, text, re.MULTILINE | re.DOTALL))


def services() -> dict[str, dict[str, str]]:
    """Each service's keys with their values' text, those of the templates that it takes in included."""
    top = mapping(COMPOSE, 0)
    templates = {
        anchor.group(1): mapping(text, 2)
        for text in top.values()
        if (anchor := re.match(r" &(\w+)\n", text)) is not None
    }
    found = {}
    for name, text in mapping(top["services"], 2).items():
        merged = re.search(r"^    <<: (.*)$", text, re.MULTILINE)
        taken = re.findall(r"\*(\w+)", merged.group(1)) if merged else []
        found[name] = {key: value for anchor in taken for key, value in templates[anchor].items()}
        found[name] |= mapping(text, 4)
    return found


SERVICES = services()
STAYING = {name: keys for name, keys in SERVICES.items() if keys["restart"].strip() != '"no"'}
OURS = {name: keys for name, keys in SERVICES.items() if keys["image"].strip().startswith("keyway:")}


def words(text: str) -> list[str]:
    """A YAML flow list of plain or quoted words."""
    return [word.strip(" \"'") for word in text.strip(" []\n").split(",")]


def copied() -> set[str]:
    """What the Dockerfile takes from the project."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()}


def test_the_services_are_those_of_the_design() -> None:
    assert set(SERVICES) == {"rabbitmq", "mongo", "init", "worker", "accounting", "leasing", "console", "cli"}
    assert set(STAYING) == {"rabbitmq", "mongo", "worker", "accounting", "leasing", "console"}
    assert set(OURS) == {"init", "worker", "accounting", "leasing", "console", "cli"}


def test_every_variable_stands_in_the_sample_and_the_sample_has_no_other() -> None:
    assert {name for name, _, _ in VARIABLES} == SAMPLE.keys()


def test_what_the_sample_leaves_empty_is_required_with_a_message_and_the_rest_has_the_same_default() -> None:
    for name, operator, text in VARIABLES:
        assert operator == (":-" if SAMPLE[name] else ":?"), name
        assert text == (SAMPLE[name] or "see .env.sample"), name


def test_every_keyway_variable_is_a_setting_and_a_default_is_the_setting_s_own() -> None:
    environments = "".join(keys["environment"] for keys in OURS.values())
    names = set(re.findall(r"^ +(\w+):", environments, re.MULTILINE))
    assert names
    assert {name.removeprefix("KEYWAY_").lower() for name in names} <= Settings.model_fields.keys()
    for name, value in SAMPLE.items():
        if name.startswith("KEYWAY_") and value:
            default = Settings.model_fields[name.removeprefix("KEYWAY_").lower()].default
            written = str(default).lower() if isinstance(default, bool) else f"{default}"
            assert value == (f"{default:g}" if isinstance(default, float) else written)


@pytest.mark.parametrize("name", sorted(STAYING))
def test_a_service_that_stays_is_checked_restarted_and_given_time_to_stop(name: str) -> None:
    service = STAYING[name]
    assert "test:" in service["healthcheck"]
    assert service["restart"].strip() == "unless-stopped"
    stop_s = re.match(r" (\d+)s", service["stop_grace_period"])
    assert stop_s is not None
    # FastStream waits for its own handlers, for as long again at most.
    assert int(stop_s.group(1)) >= 2 * Settings().grace_s + CLOSE_TIMEOUT_S


@pytest.mark.parametrize("name", ["worker", "accounting", "leasing", "console"])
def test_a_service_starts_when_init_is_done_and_both_servers_are_healthy(name: str) -> None:
    waits = mapping(SERVICES[name]["depends_on"], 4)
    assert {on: text.split(": ")[1].strip() for on, text in waits.items()} == {
        "init": "service_completed_successfully",
        "rabbitmq": "service_healthy",
        "mongo": "service_healthy",
    }


def test_every_image_is_pinned_to_a_major_version() -> None:
    images = [keys["image"].strip() for keys in SERVICES.values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) >= len(SERVICES) + 2
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:\d+[\w.-]*", image)] == []


def test_ports_are_open_on_this_machine_only() -> None:
    ports = [line for keys in SERVICES.values() for line in re.findall(r'- "(.+)"', keys.get("ports", ""))]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_files_that_are_mounted_are_there() -> None:
    mounted = re.findall(r"^ +- \./([^:]+):", COMPOSE, re.MULTILINE)
    assert mounted
    assert [path for path in mounted if not (ROOT / path).is_file()] == []


def test_the_image_runs_the_project_s_script_and_services_run_its_commands() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    entry = re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
    assert entry is not None
    assert json.loads(entry.group(1)) == ["keyway"]
    assert scripts["keyway"] == "workers.cli.main:main"
    group = typer.main.get_group(app)
    for name in ("init", "worker", "accounting", "leasing"):
        assert words(SERVICES[name]["command"])[0] in group.commands


def test_the_image_runs_without_root() -> None:
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE) == ["keyway"]


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied()
    assert [source for source in copied() if not (ROOT / source).exists()] == []


@pytest.mark.parametrize(
    ("name", "service"), [("worker", "generation"), ("accounting", "accounting"), ("leasing", "leasing")]
)
def test_a_health_check_asks_for_the_service_as_its_connection_is_named(name: str, service: str) -> None:
    test = re.search(r"test: (\[.+\])", SERVICES[name]["healthcheck"])
    assert test is not None
    assert json.loads(test.group(1)) == ["CMD", "python", "-m", "infra.deploy.healthcheck", service]
    source = (ROOT / f"workers/{service}/app.py").read_text()
    assert f'connect_broker(settings, "{service}")' in source


class _Management:
    """RabbitMQ's answers: connections by their names, each with the consumers of its channels."""

    def __init__(self, connections: dict[str, list[int]]) -> None:
        self._connections = connections

    async def call(self, method: str, path: str) -> list[dict[str, Any]]:
        assert method == "GET"
        if path == "vhosts/{vhost}/connections":
            named = [{"name": f"at {name}", "user_provided_name": name} for name in self._connections]
            return [*named, {"name": "of somebody without a name"}]
        name = path.removeprefix("connections/at%20").removesuffix("/channels").replace("%20", " ")
        return [{"consumer_count": count} for count in self._connections[name]]


@pytest.mark.parametrize(
    ("connections", "healthy"),
    [
        ({"keyway generation box-7-ab": [0, 3]}, True),
        ({"keyway generation box-7-ab": [0, 0]}, False),
        ({"keyway generation box-7-ab": []}, False),
        ({"keyway generation box2-7-ab": [3]}, False),
        ({"keyway accounting box-7-ab": [3]}, False),
        ({}, False),
    ],
)
async def test_a_service_is_healthy_when_its_own_connection_consumes(
    connections: dict[str, list[int]], *, healthy: bool
) -> None:
    assert await consumes(_Management(connections), "generation", "box") is healthy  # type: ignore[arg-type]
