"""Messages to and from plain data."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.messages import Message, ToolCall

calls = st.builds(
    ToolCall, name=st.text(min_size=1), arguments=st.text(), id=st.none() | st.text(min_size=1)
)
tools = st.dictionaries(st.text(), st.text(), min_size=1)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "observation"]),
    content=st.text(),
    reasoning=st.none() | st.text(),
    tool_calls=st.lists(calls, max_size=3).map(tuple),
    metadata=st.text(),
    tools=st.lists(tools, max_size=2).map(tuple),
)


@given(messages)
def test_a_message_survives_the_way_through_json(message: Message) -> None:
    data = json.loads(json.dumps(message.to_dict(), ensure_ascii=False))
    assert Message.from_dict(data) == message


def test_what_is_not_said_is_not_written() -> None:
    assert Message(role="user", content="你好").to_dict() == {"role": "user", "content": "你好"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("tool", "observation"), ("function", "observation"), ("developer", "system")],
)
def test_roles_of_openai_are_understood(theirs: str, ours: str) -> None:
    assert Message.from_dict({"role": theirs, "content": "x"}).role == ours


def test_an_observation_is_a_tool_to_openai() -> None:
    assert Message(role="observation", content="晴").to_dict()["role"] == "tool"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("你好", "你好"),
        ([{"type": "text", "text": "你"}, "好"], "你好"),
        ([], ""),
        ({"天气": "晴"}, '{"天气": "晴"}'),
        (7, "7"),
    ],
)
def test_content_of_every_shape_becomes_text(content: object, text: str) -> None:
    assert Message.from_dict({"role": "user", "content": content}).content == text


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ({"function": {"name": "f", "arguments": '{"a": 1}'}}, '{"a": 1}'),
        ({"function": {"name": "f", "arguments": {"城市": "北京"}}}, '{"城市": "北京"}'),
        ({"function": {"name": "f"}}, "{}"),
        ({"name": "f", "arguments": "{}"}, "{}"),
    ],
)
def test_arguments_of_a_call_are_json_text(call: dict[str, object], arguments: str) -> None:
    message = Message.from_dict({"role": "assistant", "tool_calls": [call]})
    assert message.tool_calls == (ToolCall(name="f", arguments=arguments),)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_is_read_under_both_names(key: str) -> None:
    assert Message.from_dict({"role": "assistant", key: "想"}).reasoning == "想"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "role must be one of system, user, assistant, observation, developer or tool"),
        ({"role": "boss"}, "got 'boss'"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "must be text, got 'image_url'"),
        ({"role": "user", "content": [3]}, "must be text, got 'int'"),
        ({"role": "assistant", "tool_calls": ["f"]}, "a tool call must be an object, got str"),
        ({"role": "assistant", "tool_calls": [{}]}, "needs function.name, a string"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}, "function.name"),
        ({"role": "assistant", "tool_calls": 3}, "tool_calls must be a list, got int"),
        ({"role": "system", "tools": "search"}, "tools must be a list, got str"),
        ({"role": "system", "tools": ["search"]}, "a tool must be an object, got str"),
        ({"role": ["user"]}, "role must be one of"),
    ],
)
def test_bad_data_is_told_in_a_sentence(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Message.from_dict(data)
