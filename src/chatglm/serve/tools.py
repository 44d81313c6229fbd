"""Forms of replies: what response_format and tool_choice ask for, as grammars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from chatglm.generation.constrain import JSON_STYLE, Constraint, ConstraintError, check_schema
from chatglm.messages import Tool
from chatglm.serve.errors import invalid
from chatglm.serve.protocol.chat import ChatBody, ChosenTool, ObjectFormat, SchemaFormat
from chatglm.serve.registry import Served
from chatglm.serve.signature import is_string, name_of, parameters_of, properties_of, required_of
from chatglm.tokenizer.roles import ChatGLM3Template, RoleTemplate
from chatglm.tokenizer.template import Template
from chatglm.tokenizer.thinking import MoeTemplate, Z1Template


def constraint_of(served: Served, body: ChatBody, tools: Sequence[Tool]) -> Constraint | None:
    """What a chat's reply must look like; None where it is free. Errors name the field."""
    form = body.response_format
    must_call = body.tool_choice == "required" or isinstance(body.tool_choice, ChosenTool)
    wants_json = isinstance(form, ObjectFormat | SchemaFormat)
    if must_call and wants_json:
        raise invalid("a reply cannot be a tool call and JSON at once", "response_format")
    param = "tool_choice" if must_call else "response_format"
    try:
        if must_call:
            chosen = body.tool_choice
            if isinstance(chosen, ChosenTool):
                tools = [tool for tool in tools if name_of(tool) == chosen.function.name]
            return served.grammars.lark(call_grammar(served.tokenizer.template, tools))
        if isinstance(form, SchemaFormat):
            return served.grammars.json(form.json_schema.schema_)
        if isinstance(form, ObjectFormat):
            return served.grammars.json()
    except ConstraintError as error:
        raise invalid(str(error), param, "invalid_schema") from error
    return None


def call_grammar(template: Template, tools: Sequence[Tool]) -> str:
    """A grammar of one call of one of the tools, in a model's own format."""
    if not isinstance(template, RoleTemplate):
        raise ConstraintError("this model knows no tool calls; leave tool_choice out")
    rules = [f"start: {think(template)}({' | '.join(f'call{i}' for i in range(len(tools)))})"]
    if isinstance(template, MoeTemplate | Z1Template):
        rules.append(r"thought: /([^<]|<[^\/])*/")
    for i, tool in enumerate(tools):
        schema = parameters_of(tool)
        check_schema(schema)
        if isinstance(template, MoeTemplate):
            rules += tagged_call(i, name_of(tool), schema)
        elif isinstance(template, ChatGLM3Template):
            rules += python_call(i, name_of(tool), schema)
        else:
            rules.append(f"call{i}: {text(name_of(tool) + chr(10))} {embedded(schema)}")
    return "\n".join(rules)


def think(template: Template) -> str:
    """Thoughts that may come before a call."""
    if isinstance(template, Z1Template):
        return '(thought "</think>" "\\n"*)? '
    return (
        r'("\n"? "<think>" thought "</think>" "\n"*)? ' if isinstance(template, MoeTemplate) else ""
    )


def tagged_call(index: int, name: str, schema: Mapping[str, object]) -> list[str]:
    """GLM-4.5's `<tool_call>` with its required arguments first, in the schema's order."""
    required = required_of(schema)
    parts = []
    rules = []
    for j, (key, kind) in enumerate(properties_of(schema).items()):
        rule = f"arg{index}x{j}"
        value = embedded(kind)
        if is_string(kind) and "enum" in kind:
            choices = kind["enum"]
            assert isinstance(choices, list)
            value = "(" + " | ".join(text(str(choice)) for choice in choices) + ")"
        elif is_string(kind) and not any(limit in kind for limit in ("const", "pattern", "format")):
            value = r"/([^<]|<[^\/])*/"
        rules.append(
            f"{rule}: {text(f'<arg_key>{key}</arg_key>')} "
            f'"\\n<arg_value>" {value} "</arg_value>\\n"'
        )
        parts.append(rule if key in required else f"{rule}?")
    body = " ".join(parts)
    return [f'call{index}: {text(f"<tool_call>{name}" + chr(10))} {body} "</tool_call>"', *rules]


def python_call(index: int, name: str, schema: Mapping[str, object]) -> list[str]:
    """ChatGLM3's line of Python."""
    parts = []
    for j, (key, kind) in enumerate(properties_of(schema).items()):
        gap = ", " if j else ""
        parts.append(f"{text(f'{gap}{key}=')} {python_value(kind)}")
    opening = text(f"{name}\n```python\ntool_call(")
    return [f'call{index}: {opening} {" ".join(parts)} ")\\n```"']


def python_value(kind: object) -> str:
    """A literal of Python for a parameter."""
    if isinstance(kind, Mapping) and kind.get("type") == "boolean":
        return '("True" | "False")'
    # JSON's strings, numbers, lists and objects are Python's too; true, false and null are not.
    simple = isinstance(kind, Mapping) and kind.get("type") in ("string", "integer", "number")
    return embedded(kind if simple else {"type": "string"})


def embedded(schema: object) -> str:
    """A JSON schema inside a grammar."""
    told = dict(schema) if isinstance(schema, Mapping) else {"type": "string"}
    return "%json " + json.dumps({**told, "x-guidance": JSON_STYLE}, ensure_ascii=False)


def text(words: str) -> str:
    """A literal of a grammar."""
    return json.dumps(words, ensure_ascii=False)
