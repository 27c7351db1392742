"""What production is started with: the compose files, .env.sample and the code agree.

There is no Docker engine where these tests run: no container is started. Docker Compose itself reads and
merges the files; what single values must be is read as YAML, with its anchors and merges.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from infra.deploy import secret_files
from infra.settings import Settings
from tests.docker_compose import docker_compose
from tests.package_tool import run_tool
from workers.cli.main import app
from workers.generation.app import CLOSE_TIMEOUT_S

ROOT = Path(__file__).parents[4]
FILES = ("docker-compose.yml", "docker-compose.tls.yml")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
#: Each `NAME=value` of .env.sample.
SAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.sample").read_text(), re.MULTILINE))
#: Each `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, as (name, operator, what follows it).
VARIABLES = {found for name in FILES for found in VARIABLE.findall((ROOT / name).read_text())}


def interpolated(name: str) -> str:
    """A compose file in which each variable has its default."""
    return VARIABLE.sub(lambda found: found[3], (ROOT / name).read_text())


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(interpolated(name))
    return found


COMPOSE, TLS = (load(name) for name in FILES)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STAYING = {name: service for name, service in SERVICES.items() if service["restart"] != "no"}
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("keyway:")}


def sources(service: dict[str, Any]) -> set[str]:
    """The secrets that a service is given."""
    given = service.get("secrets", [])
    return {secret if isinstance(secret, str) else secret["source"] for secret in given}


def merged(*files: str, env_file: str = os.devnull) -> dict[str, Any]:
    """What `docker compose config` makes of compose files, with the services of all profiles."""
    named = [argument for file in files for argument in ("--file", file)]
    asked = ("--env-file", env_file, *named, "--profile", "*", "config", "--format", "json")
    status, said, fault = docker_compose(*asked, folder=ROOT)
    assert (status, fault) == (0, "")
    found: dict[str, Any] = json.loads(said)
    return found


def test_docker_compose_takes_the_files_and_the_sample_changes_nothing() -> None:
    found = merged("docker-compose.yml")
    assert found == merged("docker-compose.yml", env_file=".env.sample")
    assert found["services"].keys() == SERVICES.keys()
    assert {name for name, service in found["services"].items() if service["read_only"]} == SERVICES.keys()


def test_docker_compose_adds_what_tls_needs_to_every_service_and_takes_nothing_away() -> None:
    without, with_tls = merged("docker-compose.yml")["services"], merged(*FILES)["services"]
    assert with_tls.keys() == without.keys()
    for name, service in without.items():
        added = sources(TLS["services"].get(name, {}))
        assert sources(with_tls[name]) == sources(service) | added
        for hardening in ("read_only", "cap_drop", "security_opt", "deploy", "restart"):
            assert with_tls[name][hardening] == service[hardening], name


def test_docker_compose_names_what_is_misspelt(tmp_path: Path) -> None:
    misspelt = {"services": {"worker": {"image": "keyway:0.1", "cap_dorp": ["ALL"]}}}
    (tmp_path / "docker-compose.yml").write_text(json.dumps(misspelt))
    status, _, fault = docker_compose("config", folder=tmp_path)
    assert status != 0
    assert "cap_dorp" in fault


def test_the_services_are_those_of_the_design() -> None:
    ours = {"init", "worker", "accounting", "leasing", "console", "cli"}
    assert set(OURS) == ours
    assert {"rabbitmq", "mongo", "proxy", "prometheus", "grafana"} <= set(SERVICES) - ours


def test_every_variable_stands_in_the_sample_with_its_default_and_the_sample_has_no_other() -> None:
    assert {name for name, _, _ in VARIABLES} == SAMPLE.keys()
    assert {(name, ":-", SAMPLE[name]) for name in SAMPLE} == VARIABLES


def test_every_keyway_variable_is_a_setting_and_a_default_is_the_setting_s_own() -> None:
    names = {name for service in OURS.values() for name in service["environment"] if "KEYWAY" in name}
    assert {name.removeprefix("KEYWAY_").lower() for name in names} <= Settings.model_fields.keys()
    for name, value in SAMPLE.items():
        if name.startswith("KEYWAY_"):
            default = Settings.model_fields[name.removeprefix("KEYWAY_").lower()].default
            written = str(default).lower() if isinstance(default, bool) else f"{default}"
            assert value == (f"{default:g}" if isinstance(default, float) else written)


def test_services_are_told_how_large_a_message_rabbitmq_takes() -> None:
    said = (ROOT / "infra/deploy/rabbitmq/rabbitmq.conf").read_text()
    (most,) = re.findall(r"^max_message_size = (\d+)$", said, re.MULTILINE)
    told = {service["environment"].get("KEYWAY_MAX_MESSAGE_BYTES") for service in OURS.values()}
    assert told == {most}


@pytest.mark.parametrize("name", sorted(STAYING))
def test_a_service_that_stays_is_checked_restarted_and_limited(name: str) -> None:
    service = STAYING[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()


@pytest.mark.parametrize("name", sorted(STAYING.keys() & OURS.keys()))
def test_a_service_of_ours_is_given_time_to_stop(name: str) -> None:
    # FastStream waits for its own handlers, for as long again at most.
    stop_s = int(STAYING[name]["stop_grace_period"].removesuffix("s"))
    assert stop_s >= 2 * Settings().grace_s + CLOSE_TIMEOUT_S


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_has_a_read_only_root_no_capabilities_and_gains_none(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])


@pytest.mark.parametrize("name", ["worker", "accounting", "leasing", "console"])
def test_a_service_starts_when_init_is_done_and_both_servers_are_healthy(name: str) -> None:
    assert {on: found["condition"] for on, found in SERVICES[name]["depends_on"].items()} == {
        "init": "service_completed_successfully",
        "rabbitmq": "service_healthy",
        "mongo": "service_healthy",
    }


def test_every_image_is_pinned_to_a_major_version() -> None:
    images = [service["image"] for service in SERVICES.values()]
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:v?\d+[\w.-]*", image)] == []


def test_ports_are_open_on_this_machine_only_but_for_the_proxy_s() -> None:
    everywhere = {
        (name, port)
        for compose in (COMPOSE, TLS)
        for name, service in compose["services"].items()
        for port in service.get("ports", [])
        if not port.startswith("127.0.0.1:")
    }
    assert everywhere == {("proxy", "80:80"), ("proxy", "443:443")}


def test_files_that_are_mounted_are_there() -> None:
    mounted = [
        volume.partition(":")[0]
        for compose in (COMPOSE, TLS)
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    ]
    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []


def test_no_password_stands_in_an_environment() -> None:
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            assert not re.search(r"PASS|TOKEN|SECRET|MASTER|_URL$", variable.removesuffix("_FILE")) or (
                variable.endswith("_FILE") or variable == "KEYWAY_SECRETS_DIR"
            ), (name, variable)


def test_the_files_of_secrets_that_compose_mounts_are_those_that_are_written(tmp_path: Path) -> None:
    secret_files.write(tmp_path / "secrets", tls=True)
    for compose in (COMPOSE, TLS):
        for secret in compose["secrets"].values():
            if secret["file"].startswith("./secrets/"):
                assert (tmp_path / secret["file"]).is_file()


def test_a_service_s_secrets_are_settings_under_the_names_of_their_files() -> None:
    for name, service in OURS.items():
        found = {secret.removeprefix("keyway_") for secret in sources(service)}
        assert found == {"amqp_url", "amqp_admin_url", "mongo_url", "master_keys", "alert_urls"}, name
        assert found <= Settings.model_fields.keys()


def test_by_tls_every_service_of_ours_is_given_the_authority_and_nobody_else_the_key() -> None:
    for name in OURS:
        assert TLS["services"][name]["secrets"] == [{"source": "ca", "target": "ca.pem"}]
    with_key = {name for name, service in TLS["services"].items() if sources(service) & {"server_key"}}
    assert with_key == {"rabbitmq"}
    assert sources(TLS["services"]["mongo"]) == {"ca", "server_with_key"}


def test_tls_conf_names_the_files_as_they_are_mounted() -> None:
    text = (ROOT / "infra/deploy/rabbitmq/tls.conf").read_text()
    targets = {secret["target"] for secret in TLS["services"]["rabbitmq"]["secrets"]}
    assert set(re.findall(rf"= {secret_files.MOUNTED}/(\S+)", text)) == targets
    volumes = TLS["services"]["rabbitmq"]["volumes"]
    assert volumes == ["./infra/deploy/rabbitmq/tls.conf:/etc/rabbitmq/conf.d/80-tls.conf:ro"]


def test_services_run_commands_that_there_are() -> None:
    group = typer.main.get_group(app)
    for name in ("init", "worker", "accounting", "leasing", "console"):
        assert SERVICES[name]["command"][0] in group.commands


@pytest.mark.parametrize(
    ("name", "service"), [("worker", "generation"), ("accounting", "accounting"), ("leasing", "leasing")]
)
def test_a_health_check_asks_for_the_service_as_its_connection_is_named(name: str, service: str) -> None:
    expected = ["CMD", "python", "-m", "infra.deploy.healthcheck", service]
    assert SERVICES[name]["healthcheck"]["test"] == expected
    source = (ROOT / f"workers/{service}/app.py").read_text()
    assert f'connect_broker(settings, "{service}"' in source


def test_the_console_believes_its_proxy_and_nobody_else() -> None:
    address = SERVICES["proxy"]["networks"]["edge"]["ipv4_address"]
    assert SERVICES["console"]["environment"]["FORWARDED_ALLOW_IPS"] == address
    assert [name for name, service in SERVICES.items() if "edge" in service.get("networks", [])] == [
        "console",
        "proxy",
    ]


def test_yaml_is_written_in_one_way() -> None:
    paths = [ROOT / name for name in FILES] + sorted((ROOT / "infra/deploy").rglob("*.y*ml"))
    config = str(ROOT / ".yamllint.yaml")
    found = run_tool("yamllint", "--strict", "-c", config, *map(str, paths))
    assert found == (0, "")
