"""A reply's text, piece by piece, as content, reasoning and tool calls, by the model's format."""

from collections.abc import Sequence

from chatglm.messages import Tool
from chatglm.serve.parse.base import Delta, PlainParser, ReplyParser
from chatglm.serve.parse.roles import RoleParser
from chatglm.serve.parse.tags import TagParser
from chatglm.serve.parse.thoughts import ThinkParser
from chatglm.serve.signature import name_of
from chatglm.tokenizer.roles import RoleTemplate
from chatglm.tokenizer.template import Template
from chatglm.tokenizer.thinking import MoeTemplate, Z1Template

__all__ = ["Delta", "ReplyParser", "make_parser"]


def make_parser(
    template: Template, tools: Sequence[Tool], *, thinking: bool | None = None
) -> ReplyParser:
    """The parser of a model's format, where these tools are offered."""
    if isinstance(template, MoeTemplate):
        inner: ReplyParser = TagParser(tools) if tools else PlainParser()
        return inner if thinking is False else ThinkParser(inner, begins=False)
    inner = PlainParser()
    if tools and isinstance(template, RoleTemplate):
        inner = RoleParser(template, [name_of(tool) for tool in tools])
    if isinstance(template, Z1Template):
        return ThinkParser(inner, begins=True)
    return inner
