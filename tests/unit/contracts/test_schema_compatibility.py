"""What breaks programs in other languages, and what does not."""

import json
from typing import Any

import pytest

from contracts.json_schema import RELEASED_FOLDER, SCHEMAS_FOLDER, WRITTEN_BY_AUTOMATIONS
from contracts.schema_compatibility import Schema, incompatibilities

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
NOTHING: Schema = {"type": "null"}


def fields(required: str = "a", *, closed: bool = False, **properties: Schema) -> Schema:
    """An object's schema."""
    schema: Schema = {"type": "object", "properties": properties, "required": required.split()}
    return {**schema, "additionalProperties": False} if closed else schema


def any_of(*alternatives: Schema) -> Schema:
    return {"anyOf": list(alternatives)}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def named(**definitions: Schema) -> Schema:
    """A message whose field `a` is the definition `A`."""
    return {**fields(a={"$ref": "#/$defs/A"}), "$defs": definitions}


#: A change, what it breaks in a message that automations write, and in one that they read.
CHANGES: dict[str, tuple[Schema, Schema, str | None, str | None]] = {
    "nothing": (fields(a=TEXT), fields(a=TEXT), None, None),
    "a title and a description": (fields(a=TEXT), fields(a={**TEXT, "title": "A"}), None, None),
    "a new optional field": (fields(a=TEXT), fields(a=TEXT, b=TEXT), None, None),
    "a new required field": (
        fields(a=TEXT),
        fields("a b", a=TEXT, b=TEXT),
        "b: is required, and may be missing",
        None,
    ),
    "a field is gone": (fields("a b", a=TEXT, b=TEXT), fields(a=TEXT), "b: is gone", "b: is gone"),
    "an optional field is gone": (fields(a=TEXT, b=TEXT), fields(a=TEXT), "b: is gone", "b: is gone"),
    "a field of a field is gone": (
        fields(a=fields("b", b=TEXT)),
        fields(a=fields("", c=TEXT)),
        "a.b: is gone",
        "a.b: is gone",
    ),
    "a field is required no more": (
        fields("a b", a=TEXT, b=TEXT),
        fields(a=TEXT, b=TEXT),
        None,
        "b: is required, and may be missing",
    ),
    "null is allowed": (fields(a=TEXT), fields(a=any_of(TEXT, NOTHING)), None, "a: may be null"),
    "null is allowed no more": (fields(a=any_of(TEXT, NOTHING)), fields(a=TEXT), "a: may be null", None),
    "another type": (fields(a=TEXT), fields(a=NUMBER), "a: may be string", "a: may be integer"),
    "a whole number becomes any": (
        fields(a=NUMBER),
        fields(a={"type": "number"}),
        None,
        "a: may be number, and integer is expected",
    ),
    "anything is allowed": (fields(a=TEXT), fields(a={}), None, "a: may be anything"),
    "a new value": (fields(a=one_of("x")), fields(a=one_of("x", "y")), None, "a: may be 'y'"),
    "a value is gone": (fields(a=one_of("x", "y")), fields(a=one_of("x")), "a: may be 'y'", None),
    "a text becomes one of some": (
        fields(a=TEXT),
        fields(a=one_of("x")),
        "a: may be another value than 'x'",
        None,
    ),
    "a new value where any is announced": (
        fields(a=any_of(one_of("x"), TEXT)),
        fields(a=any_of(one_of("x", "y"), TEXT)),
        None,
        None,
    ),
    "a constant changes": (
        fields(a={**TEXT, "const": "x"}),
        fields(a={**TEXT, "const": "y"}),
        "a: may be 'x'",
        "a: may be 'y'",
    ),
    "a shorter maximum": (
        fields(a={**TEXT, "maxLength": 9}),
        fields(a={**TEXT, "maxLength": 5}),
        "a: its maxLength is 5, and may be 9",
        None,
    ),
    "a first maximum": (
        fields(a=NUMBER),
        fields(a={**NUMBER, "maximum": 5}),
        "a: its maximum is 5, and may be none",
        None,
    ),
    "a lower minimum": (
        fields(a={**NUMBER, "minimum": 1}),
        fields(a={**NUMBER, "minimum": 0}),
        None,
        "a: its minimum is 1, and may be 0",
    ),
    "another pattern": (
        fields(a={**TEXT, "pattern": "^x"}),
        fields(a={**TEXT, "pattern": "^y"}),
        "a: its pattern is ^y",
        "a: its pattern is ^x",
    ),
    "a format is gone": (
        fields(a={**TEXT, "format": "date-time"}),
        fields(a=TEXT),
        None,
        "a: its format is date-time",
    ),
    "unknown fields are refused": (
        fields(a=TEXT),
        fields(a=TEXT, closed=True),
        "message: fields that it does not name are refused",
        None,
    ),
    "a new optional field where unknown ones are refused": (
        fields(a=TEXT, closed=True),
        fields(a=TEXT, b=TEXT, closed=True),
        None,
        "b: is refused",
    ),
    "an item of a list changes": (
        fields(a=many(fields("b", b=TEXT))),
        fields(a=many(fields("b c", b=TEXT, c=TEXT))),
        "a[].c: is required, and may be missing",
        None,
    ),
    "a definition changes": (
        named(A=fields("b", b=TEXT)),
        named(A=fields("b", b=any_of(TEXT, NOTHING))),
        None,
        "a.b: may be null",
    ),
    "a definition gets another name": (
        named(A=TEXT),
        {**fields(a={"$ref": "#/$defs/B"}), "$defs": {"B": TEXT}},
        None,
        None,
    ),
    "what is in an open object changes": (
        fields(a={"type": "object", "additionalProperties": True}),
        fields(a={"type": "object", "additionalProperties": TEXT}),
        "a.*: may be anything",
        None,
    ),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("written_by_automations", [True, False], ids=["written", "read"])
def test_a_change_breaks_what(what: str, written_by_automations: bool) -> None:
    old, new, breaks_writers, breaks_readers = CHANGES[what]
    found = incompatibilities(old, new, written_by_automations=written_by_automations)
    expected = breaks_writers if written_by_automations else breaks_readers
    assert len(found) == (expected is not None), found
    assert all(line.startswith(expected or "") for line in found)


def released() -> list[tuple[str, str]]:
    return [
        (folder.name, path.stem)
        for folder in sorted(RELEASED_FOLDER.iterdir())
        for path in sorted(folder.iterdir())
    ]


def read(*parts: str) -> Any:
    return json.loads(SCHEMAS_FOLDER.joinpath(*parts).read_text(encoding="utf-8"))


def test_there_is_something_released() -> None:
    assert released()


@pytest.mark.parametrize(("version", "message_type"), released())
def test_whoever_follows_a_released_schema_works_on(version: str, message_type: str) -> None:
    old, new = read("released", version, f"{message_type}.json"), read(f"{message_type}.json")
    broken = incompatibilities(old, new, written_by_automations=message_type in WRITTEN_BY_AUTOMATIONS)
    assert not broken, f"a break of {message_type} {version}: give it a new version (docs/decisions/0015)"
