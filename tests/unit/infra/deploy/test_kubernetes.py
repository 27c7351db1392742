"""The Kubernetes manifests: valid offline, and agreeing with each other and with the code.

No cluster is here. Kinds of Kubernetes itself are checked against its own schemas, those of the operators
against schemas that are kept by hand (tests/kubernetes/README.md).
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its types are a package of their own
import kubernetes_validate  # type: ignore[import-untyped]  # it has none
import pytest

from contracts import names
from infra.settings import Settings
from tests.kubernetes.kustomization import Manifest, build, pods
from workers.generation.app import CLOSE_TIMEOUT_S

ROOT = Path(__file__).parents[4]
KUBERNETES = ROOT / "infra/deploy/kubernetes"
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "tests/kubernetes").glob("*.json")}
RENDERED = {name: build(KUBERNETES / name) for name in ("base", "overlays/production")}
ALL = [
    pytest.param(manifest, id=f"{name}: {manifest['kind']} {manifest['metadata']['name']}")
    for name, manifests in RENDERED.items()
    for manifest in manifests
]
BASE = RENDERED["base"]
PODS = pods(BASE)
VERSION = "1.31"


def named(kind: str, name: str, manifests: list[Manifest] = BASE) -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def environment(pod: Manifest) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return {entry["name"]: entry for entry in container["env"]}


@pytest.mark.parametrize("manifest", ALL)
def test_a_manifest_is_valid(manifest: Manifest) -> None:
    if (schema := SCHEMAS.get(manifest["kind"])) is not None:
        jsonschema.validate(manifest, schema)
    else:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    worker = named("Deployment", "worker")
    wrong = {**worker, "spec": {**worker["spec"], "repicas": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)
    scaled = named("ScaledObject", "worker")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**scaled, "spec": {**scaled["spec"], "minReplicas": 2}}, SCHEMAS["ScaledObject"])


def test_every_schema_is_used() -> None:
    assert SCHEMAS.keys() <= {manifest["kind"] for manifest in BASE}


def test_the_workloads_are_those_of_the_design() -> None:
    assert PODS.keys() == {"init", "worker", "accounting", "leasing", "console"}
    assert named("Deployment", "accounting")["spec"]["replicas"] == 2


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_keeps_to_the_restricted_standard(name: str) -> None:
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert (
        container["resources"]["requests"].keys()
        == container["resources"]["limits"].keys()
        == {
            "cpu",
            "memory",
        }
    )


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_runs_our_image_in_the_version_that_the_overlay_names(name: str) -> None:
    (container,) = pods(RENDERED["overlays/production"])[name]["spec"]["containers"]
    assert container["image"] == "registry.example/keyway:0.1.0"


@pytest.mark.parametrize("name", ["worker", "accounting", "leasing", "console"])
def test_a_pod_is_given_time_to_finish_what_is_in_flight(name: str) -> None:
    grace_s = float(named("ConfigMap", "keyway")["data"]["KEYWAY_GRACE_S"])
    assert PODS[name]["spec"]["terminationGracePeriodSeconds"] >= 2 * grace_s + CLOSE_TIMEOUT_S


@pytest.mark.parametrize("name", ["worker", "accounting", "leasing"])
def test_a_broker_that_is_away_ends_no_pod(name: str) -> None:
    service = {"worker": "generation"}.get(name, name)
    (container,) = PODS[name]["spec"]["containers"]
    check = ["python", "-m", "infra.deploy.healthcheck", service]
    assert container["startupProbe"]["exec"]["command"] == check
    assert container["readinessProbe"]["exec"]["command"] == check
    assert container["livenessProbe"]["exec"]["command"] == [*check, "--alive"]


@pytest.mark.parametrize("name", sorted(PODS))
def test_passwords_come_from_secrets_and_every_connection_is_encrypted(name: str) -> None:
    found = environment(PODS[name])
    for variable in ("RABBITMQ_USER", "RABBITMQ_PASSWORD", "MONGO_URL"):
        assert "secretKeyRef" in found[variable]["valueFrom"]
    authority = "/run/certificates/ca.crt"
    assert re.fullmatch(
        rf"amqps://.+@rabbitmq:5671/keyway\?cafile={authority}", found["KEYWAY_AMQP_URL"]["value"]
    )
    assert re.fullmatch(rf"https://.+:15671/\?cafile={authority}", found["KEYWAY_AMQP_ADMIN_URL"]["value"])
    assert found["KEYWAY_MONGO_URL"]["value"] == f"$(MONGO_URL)&tlsCAFile={authority}"


def test_every_setting_that_is_given_is_one() -> None:
    given = set(named("ConfigMap", "keyway")["data"])
    for pod in PODS.values():
        given |= {name for name in environment(pod) if name.startswith("KEYWAY_")}
    assert {name.removeprefix("KEYWAY_").lower() for name in given} <= Settings.model_fields.keys()


def test_services_are_told_how_large_a_message_rabbitmq_takes() -> None:
    said = named("RabbitmqCluster", "rabbitmq")["spec"]["rabbitmq"]["additionalConfig"]
    (most,) = re.findall(r"^max_message_size = (\d+)$", said, re.MULTILINE)
    assert named("ConfigMap", "keyway")["data"]["KEYWAY_MAX_MESSAGE_BYTES"] == most


def test_workers_are_scaled_by_the_depth_of_lanes_and_of_nothing_else() -> None:
    scaled = named("ScaledObject", "worker")["spec"]
    (trigger,) = scaled["triggers"]
    lanes = re.compile(trigger["metadata"]["queueName"])
    assert lanes.search(names.lane_queue("billing-bot"))
    others = (
        names.lease_queue("billing-bot"),
        names.DEAD_QUEUE,
        names.ACCOUNTING_QUEUE,
        names.UNANSWERED_QUEUE,
    )
    assert not any(lanes.search(queue) for queue in others)
    assert scaled["scaleTargetRef"] == {"name": "worker"}
    assert "replicas" not in named("Deployment", "worker")["spec"]
    assert scaled["minReplicaCount"] >= 2
    # Secrets that the scaler needs are those that others are given.
    wanted = {ref["name"] for ref in named("TriggerAuthentication", "rabbitmq")["spec"]["secretTargetRef"]}
    assert wanted == {"rabbitmq-default-user", "keyway-tls", "keyway-keda"}


@pytest.mark.parametrize("name", ["worker", "accounting", "leasing"])
def test_a_drained_node_takes_one_pod_of_a_kind_at_a_time(name: str) -> None:
    budget = named("PodDisruptionBudget", name)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= PODS[name]["metadata"]["labels"].items()


def test_nothing_is_reached_that_is_not_named() -> None:
    everything = named("NetworkPolicy", "nothing-else")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    providers = named("NetworkPolicy", "providers")["spec"]
    (expression,) = providers["podSelector"]["matchExpressions"]
    # Accounting tells of alerts, and leasing calls nobody outside.
    assert expression["values"] == ["worker", "console"]
    alerts = named("NetworkPolicy", "alerts")["spec"]
    for policy, ports in ((providers, [443]), (alerts, [443, 465, 587])):
        assert [port["port"] for port in policy["egress"][0]["ports"]] == ports
        assert "169.254.0.0/16" in policy["egress"][0]["to"][0]["ipBlock"]["except"]


def test_ports_that_policies_open_are_those_that_are_served() -> None:
    containers = [pod["spec"]["containers"][0] for pod in PODS.values()]
    served = {port["containerPort"] for container in containers for port in container.get("ports", [])}
    opened = {
        port["port"]
        for name in ("keyway", "console")
        for rule in named("NetworkPolicy", name)["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert opened == served


def test_secrets_have_the_names_that_the_operators_give_them() -> None:
    rabbitmq, mongo = named("RabbitmqCluster", "rabbitmq"), named("MongoDBCommunity", "mongo")
    (user,) = mongo["spec"]["users"]
    of_the_operators = {
        "RABBITMQ_USER": f"{rabbitmq['metadata']['name']}-default-user",
        "RABBITMQ_PASSWORD": f"{rabbitmq['metadata']['name']}-default-user",
        "MONGO_URL": f"{mongo['metadata']['name']}-{user['db']}-{user['name']}",
    }
    for pod in PODS.values():
        found = environment(pod)
        assert of_the_operators == {
            name: found[name]["valueFrom"]["secretKeyRef"]["name"] for name in of_the_operators
        }
    assert user["db"] == named("ConfigMap", "keyway")["data"]["KEYWAY_MONGO_DATABASE"]


def test_a_policy_or_budget_or_service_selects_pods_that_there_are() -> None:
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    # The operators label theirs so.
    labels += [{"app.kubernetes.io/name": "rabbitmq"}, {"app": "mongo-svc"}]
    selectors = [named("Service", "console")["spec"]["selector"]]
    for manifest in BASE:
        if manifest["kind"] == "PodDisruptionBudget":
            selectors.append(manifest["spec"]["selector"]["matchLabels"])
        if manifest["kind"] == "NetworkPolicy":
            selectors.append(manifest["spec"]["podSelector"].get("matchLabels", {}))
    assert len(selectors) > 8
    for selector in selectors:
        assert any(selector.items() <= own.items() for own in labels), selector
