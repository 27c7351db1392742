"""The simulated model's values for a JSON schema: checked by the models that the schemas come from."""

from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from infra.local.simulator.samples import sample


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    kind: Literal["leaf"]
    colour: Colour
    weight: Annotated[float, Field(gt=0, lt=1)]


class Tree(BaseModel):
    name: Annotated[str, Field(min_length=8, max_length=10)]
    planted: date
    leaves: Annotated[list[Leaf], Field(min_length=2)]
    children: list["Tree"]
    parent: "Tree | None"
    age: Annotated[int, Field(ge=7, multiple_of=5)]
    notes: dict[str, str]
    tags: tuple[str, ...] | None


class Chain(BaseModel):
    id: UUID
    seen: datetime
    following: "Chain | None"


@pytest.mark.parametrize(
    "kind",
    [
        Tree,
        Chain,
        bool,
        None,
        list[int],
        int | str,
        Annotated[int, Field(le=-3)],
        Annotated[float, Field(ge=0.5)],
        Annotated[list[str], Field(max_length=0)],
    ],
)
def test_a_sample_fits_the_schema_that_it_is_for(kind: Any) -> None:
    adapter = TypeAdapter[Any](kind)
    adapter.validate_python(sample(adapter.json_schema()), strict=False)


def test_a_sample_is_always_the_same() -> None:
    schema = Tree.model_json_schema()
    assert sample(schema) == sample(schema)


def test_a_string_says_what_it_is_for() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}}}
    assert sample(schema) == {"city": "city", "unit": "C"}


def test_optional_properties_are_left_out_when_others_are_required() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}
    assert sample(schema) == {"a": 1}


def test_the_parts_of_all_of_hold_together() -> None:
    part = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    schema = {
        "$defs": {"part": part},
        "allOf": [
            {"$ref": "#/$defs/part"},
            {"properties": {"b": {"type": ["null", "number"]}}, "required": ["b"]},
        ],
    }
    assert sample(schema) == {"a": 1, "b": 1}


def test_a_schema_that_requires_itself_for_ever_ends() -> None:
    schema = {"type": "object", "properties": {"again": {"$ref": "#"}}, "required": ["again"]}
    assert set(sample(schema)) == {"again"}
