"""The AsyncAPI document that programs in other languages are made from."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

from contracts import names
from contracts.asyncapi import DOCUMENT, EVENTS, WIRE_VERSION, document, export, text
from contracts.json_schema import MESSAGE_TYPES, RELEASED_FOLDER

ASYNCAPI_SCHEMA = Path(__file__).parents[2] / "asyncapi" / "3.0.0-without-$id.json"


def test_the_file_is_fresh(tmp_path: Path) -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == text(), "stale: run `make schemas`"
    export(tmp_path / "asyncapi.json")
    assert (tmp_path / "asyncapi.json").read_text(encoding="utf-8") == text()


def test_it_follows_the_schema_of_asyncapi() -> None:
    schema = json.loads(ASYNCAPI_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(document())


def test_it_is_read_by_a_library_for_asyncapi() -> None:
    read = ApplicationSchema.model_validate(document())
    assert read.info.version == WIRE_VERSION
    assert len(read.channels) == len(EVENTS) + 3


def test_every_reference_leads_somewhere() -> None:
    whole = document()
    found = list(references(whole))
    assert len(found) > 50
    for reference in found:
        target: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert isinstance(target, dict)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for below in node.values():
            yield from references(below)
    elif isinstance(node, list):
        for below in node:
            yield from references(below)


def test_every_message_of_the_wire_is_in_it_and_is_sent_somewhere() -> None:
    whole = document()
    assert set(whole["components"]["messages"]) == set(MESSAGE_TYPES)
    sent = {name for channel in whole["channels"].values() for name in channel["messages"]}
    assert sent == set(MESSAGE_TYPES)


def test_keyway_receives_what_the_broker_lets_an_automation_send_and_nothing_else() -> None:
    whole = document()
    allowed = names.topic_permissions("billing-bot")
    for operation in whole["operations"].values():
        channel = whole["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
        exchange = channel["bindings"]["amqp"]["exchange"]["name"]
        routing_key = channel["address"].replace("{automation}", "billing-bot")
        may_send = re.fullmatch(allowed[exchange], routing_key) is not None
        assert may_send == (operation["action"] == "receive"), routing_key


def test_its_version_is_that_of_the_last_released_schemas() -> None:
    last = max(tuple(map(int, folder.name.split("."))) for folder in RELEASED_FOLDER.iterdir())
    assert WIRE_VERSION.split(".")[:2] == [str(number) for number in last]
