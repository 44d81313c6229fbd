"""Calls and thoughts of every format, cut anywhere: parse(render(call)) is the call."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.messages import Message, ToolCall
from chatglm.serve.chat import Turn
from chatglm.serve.parse import Delta, ReplyParser, make_parser
from chatglm.tokenizer import load_tokenizer
from chatglm.tokenizer.base import Tokenizer
from chatglm.tokenizer.roles import ChatGLM3Template, GLM0414Template, RoleTemplate
from chatglm.tokenizer.template import Template
from chatglm.tokenizer.thinking import MoeTemplate, Z1Template

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string"}, "count": {"type": "integer"}},
            },
        },
    }
    for name in ("get_weather", "get_week", "search")
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9999, 9999) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
WORDS = st.text("abc今天，。{}\"'\\ \n", max_size=20)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    assets = Path(__file__).resolve().parents[2] / "src" / "chatglm" / "assets" / "nano"
    return load_tokenizer(assets)


def read(parser: ReplyParser, text: str, cuts: list[int]) -> list[Delta]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    deltas = []
    for start, stop in pairwise(edges):
        deltas += parser.push(text[start:stop])
    return deltas + parser.flush()


def calls_of(deltas: list[Delta]) -> list[tuple[str, object]]:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in deltas:
        if delta.call is not None:
            names[delta.call] = names.get(delta.call, "") + delta.name
            arguments[delta.call] = arguments.get(delta.call, "") + delta.arguments
    return [(names[i], json.loads(arguments[i])) for i in sorted(names)]


def content_of(deltas: list[Delta]) -> str:
    return "".join(delta.content for delta in deltas)


def rendered(template: Template, call: ToolCall) -> str:
    """What the model has to write for a call: the learnt text between the marks."""
    turns = [Message(role="user", content="?"), Message(role="assistant", tool_calls=(call,))]
    parts = template.segments(turns, thinking=None, reply=False)
    return "".join(part.text for part in parts if part.is_learnt and not part.is_special)


@pytest.mark.parametrize("kind", [RoleTemplate, GLM0414Template, ChatGLM3Template, MoeTemplate])
@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["get_weather", "get_week", "search"]),
    arguments=st.dictionaries(st.sampled_from(["code", "count", "a", "b"]), VALUES, max_size=3),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_a_rendered_call_is_read_back_under_any_cut(
    kind: type[Template],
    tokenizer: Tokenizer,
    name: str,
    arguments: dict[str, object],
    cuts: list[int],
) -> None:
    if kind is MoeTemplate:  # its values are text, which says nothing of their type
        arguments = {k: str(v) if k == "code" else v for k, v in arguments.items()}
        arguments = {k: v for k, v in arguments.items() if k == "code" or not isinstance(v, str)}
    template = kind(tokenizer)
    call = ToolCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))
    text = rendered(template, call)
    deltas = read(make_parser(template, TOOLS), text.strip(), cuts)
    assert calls_of(deltas) == [(name, arguments)]
    assert content_of(deltas).strip() == ""


@pytest.mark.parametrize("kind", [RoleTemplate, ChatGLM3Template, MoeTemplate, Z1Template])
@settings(max_examples=150, deadline=None)
@given(text=WORDS, cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_text_that_is_no_call_is_content_under_any_cut(
    kind: type[Template], tokenizer: Tokenizer, text: str, cuts: list[int]
) -> None:
    text = text.strip()
    parser = make_parser(kind(tokenizer), TOOLS)
    begun = "思考</think>" if kind is Z1Template else ""
    deltas = read(parser, begun + text, cuts)
    assert content_of(deltas).strip() == text
    assert calls_of(deltas) == []


@settings(max_examples=150, deadline=None)
@given(
    thought=WORDS,
    answer=WORDS,
    cuts=st.lists(st.integers(0, 1000), max_size=8),
    opened=st.booleans(),
)
def test_thoughts_are_told_apart_from_the_answer(
    tokenizer: Tokenizer, thought: str, answer: str, cuts: list[int], opened: bool
) -> None:
    template = Z1Template(tokenizer) if opened else MoeTemplate(tokenizer)
    text = f"{'' if opened else '<think>'}{thought}</think>\n{answer.strip()}"
    deltas = read(make_parser(template, []), text, cuts)
    assert "".join(delta.reasoning for delta in deltas) == thought.strip()
    assert content_of(deltas) == answer.strip()


@pytest.mark.parametrize("pieces", [["想", "一想", "</think>", "你", "好"], ["想", "一想"]])
def test_tokens_of_thoughts_are_counted_apart(tokenizer: Tokenizer, pieces: list[str]) -> None:
    turn = Turn(parser=make_parser(Z1Template(tokenizer), []))
    for text in pieces:
        turn.count(turn.parser.push(text))
    assert turn.num_reasoning == 2


def test_several_calls_of_one_reply_are_kept_apart(tokenizer: Tokenizer) -> None:
    call = "<tool_call>{}\n<arg_key>code</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"
    text = "好的。\n" + call.format("search", "12") + "\n" + call.format("get_week", "是")
    deltas = read(make_parser(MoeTemplate(tokenizer), TOOLS), text, [3, 9, 30, 70])
    assert calls_of(deltas) == [("search", {"code": "12"}), ("get_week", {"code": "是"})]
    assert content_of(deltas) == "好的。"


def test_a_call_that_the_limit_cuts_off_is_still_json(tokenizer: Tokenizer) -> None:
    text = "<tool_call>search\n<arg_key>count</arg_key>\n<arg_value>3</arg_value>\n<arg_key>co"
    deltas = read(make_parser(MoeTemplate(tokenizer), TOOLS), text, [])
    assert calls_of(deltas) == [("search", {"count": 3})]


def test_a_tool_that_is_not_offered_is_no_call(tokenizer: Tokenizer) -> None:
    deltas = read(make_parser(RoleTemplate(tokenizer), TOOLS), 'rm\n{"a": 1}', [2])
    assert calls_of(deltas) == []
    assert content_of(deltas) == 'rm\n{"a": 1}'


def test_the_parser_agrees_with_the_template_on_whole_replies(tokenizer: Tokenizer) -> None:
    for kind in (RoleTemplate, ChatGLM3Template, MoeTemplate):
        template = kind(tokenizer)
        call = ToolCall(name="search", arguments='{"count": 2}')
        text = rendered(template, call).strip()
        parsed = template.parse_text(text)
        told = calls_of(read(make_parser(template, TOOLS), text, []))
        assert told == [(c.name, json.loads(c.arguments)) for c in parsed.tool_calls]
