"""Whether a change of a JSON Schema breaks programs that were written against the one before.

One question answers both directions: may a document that follows the writer's schema be one that the reader's
does not allow? For what automations write, the writer's schema is the old one; for what they read, the new.
It knows the parts of JSON Schema that pydantic makes of our models.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

#: Bounds that a reader may set: the keyword, and whether a greater value is the narrower one.
BOUNDS = {
    "minimum": True,
    "exclusiveMinimum": True,
    "minLength": True,
    "minItems": True,
    "maximum": False,
    "exclusiveMaximum": False,
    "maxLength": False,
    "maxItems": False,
}


def incompatibilities(old: Schema, new: Schema, *, written_by_automations: bool) -> list[str]:
    """Find what breaks programs that follow `old`, once Keyway follows `new`.

    Args:
        old: the JSON Schema of a message as it was released.
        new: the same message's schema as it is to be.
        written_by_automations: whether they write it and Keyway reads it, or the other way round.

    Returns:
        A line for each break, the field first; none: whoever follows `old` works on.
    """
    gone = [f"{field}: is gone" for field in _fields(old, old) if field not in set(_fields(new, new))]
    writer, reader = (old, new) if written_by_automations else (new, old)
    breaks = _Comparison(writer, reader).of(writer, reader, "")
    return gone + [
        line for line in breaks if line.partition(":")[0] not in {g.partition(":")[0] for g in gone}
    ]


class _Comparison:
    """Compares what a writer may write with what a reader allows; each resolves its own `$ref`."""

    def __init__(self, writer: Schema, reader: Schema) -> None:
        self._writer, self._reader = writer, reader

    def of(self, written: Schema, read: Schema, field: str) -> list[str]:
        """What may be written at a field, and not be read there."""
        readers = _branches(read, self._reader)
        breaks: list[str] = []
        for branch in _branches(written, self._writer):
            found = [self._of_branch(branch, reader, field) for reader in readers]
            if all(found):
                breaks += self._closest(branch, readers, found, field)
        return breaks

    @staticmethod
    def _closest(branch: Schema, readers: list[Schema], found: list[list[str]], field: str) -> list[str]:
        """The breaks with the one branch of the reader that is meant, else that there is none."""
        of_its_type = [
            lines for reader, lines in zip(readers, found, strict=True) if _types(reader) == _types(branch)
        ]
        meant = found if len(readers) == 1 else of_its_type
        return meant[0] if len(meant) == 1 else [f"{_name(field)}: may be {_kind(branch)}"]

    def _of_branch(self, written: Schema, read: Schema, field: str) -> list[str]:
        types, allowed = _types(written), _types(read)
        if allowed and not (types and all(_is_one_of(one, allowed) for one in types)):
            return [f"{_name(field)}: may be {_kind(written)}, and {_kind(read)} is expected"]
        return [
            *_values(written, read, field),
            *_bounds(written, read, field),
            *self._items(written, read, field),
            *self._properties(written, read, field),
        ]

    def _items(self, written: Schema, read: Schema, field: str) -> list[str]:
        if "items" not in read:
            return []
        return self.of(written.get("items", {}), read["items"], f"{field}[]")

    def _properties(self, written: Schema, read: Schema, field: str) -> list[str]:
        breaks = [
            f"{_name(_below(field, name))}: is required, and may be missing"
            for name in read.get("required", ())
            if name not in written.get("required", ())
        ]
        others = read.get("additionalProperties", True)
        for name, schema in written.get("properties", {}).items():
            expected = read.get("properties", {}).get(name, others)
            if expected is False:
                breaks.append(f"{_name(_below(field, name))}: is refused")
            elif expected is not True:
                breaks += self.of(schema, expected, _below(field, name))
        unnamed = written.get("additionalProperties", True)
        if others is False and unnamed is not False and _types(written) == {"object"}:
            breaks.append(f"{_name(field)}: fields that it does not name are refused")
        if isinstance(others, dict) and unnamed is not False:
            breaks += self.of(unnamed if isinstance(unnamed, dict) else {}, others, _below(field, "*"))
        return breaks


def _values(written: Schema, read: Schema, field: str) -> list[str]:
    """Enumerations, constants, patterns and formats."""
    breaks = []
    if (known := _enumerated(read)) is not None:
        may_be = _enumerated(written)
        if may_be is None:
            breaks.append(f"{_name(field)}: may be another value than {_listed(known)}")
        elif unknown := [value for value in may_be if value not in known]:
            breaks.append(f"{_name(field)}: may be {_listed(unknown)}")
    breaks += [
        f"{_name(field)}: its {keyword} is {read[keyword]}, and may be another"
        for keyword in ("pattern", "format")
        if keyword in read and written.get(keyword) != read[keyword]
    ]
    return breaks


def _bounds(written: Schema, read: Schema, field: str) -> list[str]:
    breaks = []
    for keyword, greater_is_narrower in BOUNDS.items():
        if keyword not in read:
            continue
        bound, limit = written.get(keyword), read[keyword]
        if bound is None or (bound < limit if greater_is_narrower else bound > limit):
            beyond = "none" if bound is None else bound
            breaks.append(f"{_name(field)}: its {keyword} is {limit}, and may be {beyond}")
    return breaks


def _branches(schema: Schema, root: Schema) -> list[Schema]:
    """The alternatives of a schema, without references."""
    schema = _resolved(schema, root)
    if "anyOf" not in schema:
        return [schema]
    return [branch for alternative in schema["anyOf"] for branch in _branches(alternative, root)]


def _resolved(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _fields(schema: Schema, root: Schema, field: str = "") -> Iterator[str]:
    """Every field that a schema names, with those above it."""
    for branch in _branches(schema, root):
        for name, below in branch.get("properties", {}).items():
            yield _below(field, name)
            yield from _fields(below, root, _below(field, name))
        if "items" in branch:
            yield from _fields(branch["items"], root, f"{field}[]")


def _types(schema: Schema) -> set[str]:
    named = schema.get("type", [])
    return {named} if isinstance(named, str) else set(named)


def _is_one_of(one: str, types: set[str]) -> bool:
    return one in types or (one == "integer" and "number" in types)


def _enumerated(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _kind(schema: Schema) -> str:
    return " or ".join(sorted(_types(schema))) or "anything"


def _listed(values: list[Any]) -> str:
    return ", ".join(map(repr, values))


def _below(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _name(field: str) -> str:
    return field or "message"
