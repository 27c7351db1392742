"""Exports the messages as JSON Schemas into `contracts/schemas/`, for programs in other languages.

Run it as `python -m contracts.json_schema` (`make schemas`); a test keeps the files fresh.
"""

import json
from pathlib import Path

from pydantic import BaseModel

from contracts import messages, names

SCHEMAS_FOLDER = Path(__file__).parent / "schemas"
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


def schema_text(message_type: str) -> str:
    """The JSON Schema (2020-12) of a message type, as its file has it."""
    model = MESSAGE_TYPES[message_type]
    asked_for = model.model_config.get("extra") == "forbid"
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= model.model_json_schema(by_alias=True, mode="validation" if asked_for else "serialization")
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def export(folder: Path = SCHEMAS_FOLDER) -> None:
    """Write a file for each message type."""
    for message_type in MESSAGE_TYPES:
        (folder / f"{message_type}.json").write_text(schema_text(message_type), encoding="utf-8")


if __name__ == "__main__":
    export()
