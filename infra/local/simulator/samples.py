"""A value that fits a JSON schema: what the simulated model writes for structured output and tool calls."""

from typing import Any

#: From this depth on the smallest choice is taken: no optional property, an empty array, null.
SHALLOW = 4
#: A schema that requires itself for ever ends here.
DEEPEST = 24

_FORMATS = {
    "date-time": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def sample(schema: Any, root: Any = None, name: str = "value", depth: int = 0) -> Any:
    """A value for the schema, always the same one.

    Args:
        schema: JSON schema; of what it may say, `pattern`, `not` and conditions are not heeded.
        root: the document in which `$ref` is looked up; the schema itself by default.
        name: what a string without other demands says.
        depth: of the value in the document.
    """
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > DEEPEST:
        return None
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if options := schema.get("enum"):
        return options[0]
    if isinstance(reference := schema.get("$ref"), str):
        return sample(_resolve(reference, root), root, name, depth + 1)
    if parts := schema.get("allOf"):
        return sample(_merged(schema, parts, root), root, name, depth + 1)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return sample(_choose(options, depth), root, name, depth + 1)
    return _of_type(schema, root, name, depth)


def _of_type(schema: dict[str, Any], root: Any, name: str, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    match kind:
        case "object":
            return _object(schema, root, depth)
        case "array":
            least = 0 if depth >= SHALLOW else 1
            count = min(max(least, schema.get("minItems", 0)), schema.get("maxItems", DEEPEST))
            return [sample(schema.get("items", {}), root, name, depth + 1) for _ in range(count)]
        case "integer" | "number":
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
        case _:
            text = _FORMATS.get(schema.get("format", ""), name)
            return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]


def _object(schema: dict[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    required = schema.get("required", [] if depth >= SHALLOW else list(properties))
    return {key: sample(properties.get(key, {}), root, key, depth + 1) for key in required}


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf", 1)
    value = schema.get("minimum")
    if value is None and "exclusiveMinimum" in schema:
        above = schema["exclusiveMinimum"]
        below = schema.get("maximum", schema.get("exclusiveMaximum", above + 2 * step))
        value = above + step if whole else (above + below) / 2
    if value is None:
        value = min(step, schema.get("maximum", step), schema.get("exclusiveMaximum", step + 1) - 1)
    if whole or "multipleOf" in schema:
        value = -(-value // step) * step
    return int(value) if whole else value


def _choose(options: list[Any], depth: int) -> Any:
    null = {"type": "null"}
    if depth >= SHALLOW and null in options:
        return null
    return next((option for option in options if option != null), null)


def _merged(schema: dict[str, Any], parts: list[Any], root: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in parts:
        resolved = _resolve(part["$ref"], root) if "$ref" in part else part
        for key, value in resolved.items():
            both = merged.get(key)
            if isinstance(value, dict) and isinstance(both, dict):
                merged[key] = {**both, **value}
            elif isinstance(value, list) and isinstance(both, list):
                merged[key] = [*both, *value]
            else:
                merged[key] = value
    return merged


def _resolve(reference: str, root: Any) -> Any:
    found = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step) if isinstance(found, dict) else None
    return found
