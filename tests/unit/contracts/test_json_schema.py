"""The JSON Schemas that programs in other languages read."""

import json
from pathlib import Path

import pytest

from contracts import names
from contracts.json_schema import MESSAGE_TYPES, SCHEMAS_FOLDER, export, schema_text


def test_every_message_type_has_a_schema() -> None:
    versioned = {
        value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str) and value.endswith(".v1")
    }
    assert set(MESSAGE_TYPES) == versioned


@pytest.mark.parametrize("message_type", MESSAGE_TYPES)
def test_a_schema_file_is_fresh(message_type: str) -> None:
    written = (SCHEMAS_FOLDER / f"{message_type}.json").read_text(encoding="utf-8")
    assert written == schema_text(message_type), "stale: run `make schemas`"


def test_there_is_no_schema_of_a_message_that_is_gone() -> None:
    assert {path.name for path in SCHEMAS_FOLDER.glob("*.json")} == {f"{name}.json" for name in MESSAGE_TYPES}


def test_export_writes_a_file_for_each_type(tmp_path: Path) -> None:
    export(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json" for name in MESSAGE_TYPES}
    schema = json.loads((tmp_path / "generation.result.v1.json").read_text(encoding="utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "generation.result.v1"


@pytest.mark.parametrize("message_type", [names.GENERATION_REQUEST, names.KEY_LEASE_REQUEST])
def test_what_is_asked_for_allows_no_unknown_field(message_type: str) -> None:
    assert json.loads(schema_text(message_type))["additionalProperties"] is False


def test_a_schema_has_the_names_of_the_wire_not_those_of_the_code() -> None:
    properties = json.loads(schema_text(names.KEY_STATUS_CHANGED))["properties"]
    assert "from" in properties
    assert "from_" not in properties
