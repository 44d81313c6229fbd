"""What an offered tool is called and which arguments it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from chatglm.messages import Tool


def name_of(tool: Tool) -> str:
    """A tool's name."""
    function = tool.get("function")
    return str(function.get("name")) if isinstance(function, Mapping) else ""


def parameters_of(tool: Tool) -> Mapping[str, object]:
    """The schema of a tool's arguments; what it does not name is not allowed."""
    function = tool.get("function")
    schema = function.get("parameters") if isinstance(function, Mapping) else None
    if not isinstance(schema, Mapping) or not schema:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"additionalProperties": False, **schema} if "properties" in schema else schema


def properties_of(schema: Mapping[str, object]) -> Mapping[str, object]:
    """The schema of each argument, by its name."""
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def required_of(schema: Mapping[str, object]) -> list[object]:
    """Names of the arguments that must be given."""
    required = schema.get("required")
    return required if isinstance(required, list) else []


def is_string(schema: object) -> TypeGuard[Mapping[str, object]]:
    """Whether a schema says that a value is a string."""
    return isinstance(schema, Mapping) and schema.get("type") == "string"
