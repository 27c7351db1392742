"""Exports the messages as JSON Schemas into `contracts/schemas/`, for programs in other languages.

Run it as `python -m contracts.json_schema` (`make schemas`); a test keeps the files fresh.
"""

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from contracts import messages, names

SCHEMAS_FOLDER = Path(__file__).parent / "schemas"
#: The schemas of each released version of the wire, which are kept as they were.
RELEASED_FOLDER = SCHEMAS_FOLDER / "released"
MESSAGE_TYPES: dict[str, type[BaseModel]] = {
    names.GENERATION_REQUEST: messages.GenerationRequest,
    names.GENERATION_RESULT: messages.GenerationResult,
    names.GENERATION_CHUNK: messages.GenerationChunk,
    names.USAGE_RECORDED: messages.UsageRecorded,
    names.USAGE_REPORTED: messages.UsageReported,
    names.HEARTBEAT: messages.Heartbeat,
    names.KEY_STATUS_CHANGED: messages.KeyStatusChanged,
    names.BUDGET_CROSSED: messages.BudgetCrossed,
    names.CONFIG_CHANGED: messages.ConfigChanged,
    names.KEY_LEASE_REQUEST: messages.KeyLeaseRequest,
    names.KEY_LEASE: messages.KeyLease,
}
#: What automations write and Keyway reads; all the rest is the other way round.
WRITTEN_BY_AUTOMATIONS = frozenset(
    {names.GENERATION_REQUEST, names.USAGE_REPORTED, names.HEARTBEAT, names.KEY_LEASE_REQUEST}
)


def schema_text(message_type: str) -> str:
    """The JSON Schema (2020-12) of a message type, as its file has it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= MESSAGE_TYPES[message_type].model_json_schema(by_alias=True, mode=mode_of(message_type))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def mode_of(message_type: str) -> JsonSchemaMode:
    """Which of a model's schemas is a message type's: of what may be written to us, or of what we write."""
    return "validation" if message_type in WRITTEN_BY_AUTOMATIONS else "serialization"


def export(folder: Path = SCHEMAS_FOLDER) -> None:
    """Write a file for each message type."""
    for message_type in MESSAGE_TYPES:
        (folder / f"{message_type}.json").write_text(schema_text(message_type), encoding="utf-8")


if __name__ == "__main__":
    export()
