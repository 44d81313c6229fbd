"""The shapes in which people keep examples, and what is said of a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm.data.kinds import Columns, as_record
from chatglm.data.records import read_records
from chatglm.messages import Message, ToolCall

ASKED = Message(role="user", content="问")
TOLD = Message(role="assistant", content="答")
WEATHER = {"name": "weather", "description": "天气", "parameters": {"type": "object"}}

SAME = [
    ("alpaca", {"instruction": "问", "input": "", "output": "答"}),
    ("columns", {"content": "问", "summary": "答"}),
    ("columns", {"prompt": "问", "response": "答"}),
    ("columns", {"query": "问", "response": "答"}),
    ("columns", {"question": "问", "answer": "答"}),
    ("messages", {"messages": [ASKED.to_dict(), TOLD.to_dict()]}),
    ("conversations", {"conversations": [ASKED.to_dict(), TOLD.to_dict()]}),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]},
    ),
]


@pytest.mark.parametrize(("kind", "row"), SAME)
def test_every_kind_is_recognized_and_gives_the_same_conversation(
    kind: str, row: dict[str, object]
) -> None:
    record = as_record(row, "f line 1")
    assert record.kind == kind
    assert record.messages == (ASKED, TOLD)
    assert record.where == "f line 1"


def test_alpaca_brings_its_input_system_and_history() -> None:
    row = {
        "instruction": "问",
        "input": "文",
        "output": "答",
        "system": "你是客服",
        "history": [["早", "好"]],
    }
    roles = [(m.role, m.content) for m in as_record(row, "").messages]
    assert roles == [
        ("system", "你是客服"), ("user", "早"), ("assistant", "好"), ("user", "问\n文"),
        ("assistant", "答"),
    ]  # fmt: skip


def test_sharegpt_brings_tools_calls_and_their_results() -> None:
    row = {
        "tools": json.dumps([WEATHER]),
        "conversations": [
            {"from": "human", "value": "北京天气"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"c": "北京"}}'},
            {"from": "observation", "value": "晴"},
            {"from": "gpt", "value": "今天晴。"},
        ],
    }
    messages = as_record(row, "").messages
    assert messages[0].tools == ({"type": "function", "function": WEATHER},)
    assert messages[2].tool_calls == (ToolCall(name="weather", arguments='{"c": "北京"}'),)
    assert [m.role for m in messages] == ["system", "user", "assistant", "observation", "assistant"]


def test_chatglm3s_tool_turn_is_a_call_and_its_result() -> None:
    row = {
        "tools": [WEATHER],
        "conversations": [
            {"role": "user", "content": "北京天气"},
            {"role": "tool", "name": "weather", "parameters": {"c": "北京"}, "observation": "晴"},
            {"role": "assistant", "content": "今天晴。", "loss": False},
        ],
    }
    record = as_record(row, "")
    call, result = record.messages[2:4]
    assert (call.metadata, call.tool_calls[0].arguments) == ("weather", '{"c": "北京"}')
    assert (result.role, result.content) == ("observation", "晴")
    assert record.unlearnt == {4}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "问", "chosen": "好", "rejected": "坏"},
        {"instruction": "问", "input": "", "chosen": "好", "rejected": "坏"},
        {"messages": [ASKED.to_dict()], "chosen": "好", "rejected": "坏"},
        {
            "messages": [ASKED.to_dict(), {"role": "assistant", "content": "好"}],
            "rejected_response": "坏",
        },
        {
            "conversations": [{"from": "human", "value": "问"}],
            "chosen": {"from": "gpt", "value": "好"},
            "rejected": {"from": "gpt", "value": "坏"},
        },
        {"conversations": [{"role": "user", "content": "问"}], "chosen": "好", "rejected": "坏"},
        {"instruction": "", "input": "问", "chosen": "好", "rejected": "坏"},
        {
            "chosen": [ASKED.to_dict(), {"role": "assistant", "content": "好"}],
            "rejected": [ASKED.to_dict(), {"role": "assistant", "content": "坏"}],
        },
    ],
)
def test_preferences_of_every_tool_are_one_question_and_two_answers(
    row: dict[str, object],
) -> None:
    record = as_record(row, "")
    assert record.messages == (ASKED,)
    assert [m.content for m in (*record.chosen, *record.rejected)] == ["好", "坏"]


def test_a_preference_may_begin_with_a_tool_turn_of_chatglm3() -> None:
    turns = [
        {"role": "user", "content": "天气？"},
        {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": "晴"},
    ]
    wanted = as_record({"conversations": [*turns, {"role": "assistant", "content": "晴。"}]}, "")
    record = as_record({"conversations": turns, "chosen": "晴。", "rejected": "雨。"}, "")
    assert record.messages == wanted.messages[:-1]


def test_a_label_says_whether_an_answer_is_wanted() -> None:
    for row in (
        {"prompt": "问", "completion": "答", "label": False},
        {"messages": [ASKED.to_dict(), TOLD.to_dict()], "kto_tag": False},
    ):
        record = as_record(row, "")
        assert (record.kind, record.label, record.messages) == ("labelled", False, (ASKED, TOLD))


def test_columns_may_have_any_name() -> None:
    columns = Columns(prompt="标题", response="正文", history="之前")
    row = {"标题": "问", "正文": "答", "之前": '[["早", "好"]]'}
    assert [m.content for m in as_record(row, "", columns).messages] == ["早", "好", "问", "答"]


BROKEN = [
    ("[]", "expected an object, got list"),
    ("{}", "'text' and 'messages' are missing; found {}"),
    ('{"txt": "a"}', "found txt; expected"),
    ('{"text": "a"', "not JSON"),
    ("{'text': 'a'}", "not JSON"),
    ('{"messages": []}', "'messages' must be a list of turns and not empty"),
    ('{"messages": "a"}', "'messages' must be a list of turns"),
    ('{"messages": ["a"]}', "turn 1 must be an object, got str"),
    ('{"messages": [{"content": "a"}]}', "role must be one of"),
    ('{"messages": [{"role": "boss", "content": "a"}]}', "got 'boss'"),
    ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "must be text"),
    ('{"messages": [{"role": "user", "content": "a"}], "tools": {}}', "'tools' must be a list"),
    ('{"messages": [{"role": "user", "content": "a"}], "tools": "["}', "not JSON inside the text"),
    ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "needs function.name"),
    ('{"messages": [{"role": "user", "content": "a", "loss": "no"}]}', "'loss' must be true"),
    ('{"conversations": []}', "must be a list of turns and not empty"),
    ('{"conversations": [{"from": "human"}]}', "turn 1: 'value' must be a string, got NoneType"),
    ('{"conversations": [{"from": "me", "value": "a"}]}', "'from' must be one of human"),
    ('{"conversations": [{"value": "a"}]}', "'from' must be one of .*got None"),
    ('{"conversations": [{"from": "function_call", "value": "f(x)"}]}', "not JSON inside the text"),
    ('{"conversations": [{"role": "user", "content": "a", "loss": 3}]}', "turn 1: 'loss' must be"),
    ('{"conversations": [{"role": "tool", "parameters": {}}]}', "'name' must be a string"),
    ('{"instruction": "a"}', "'output' must be a string, got nothing"),
    ('{"instruction": 3, "output": "a"}', "'instruction' must be a string, got int"),
    ('{"instruction": "a", "output": null}', "'output' must be a string, got nothing"),
    ('{"instruction": "a", "output": "b", "history": ["c"]}', "item 1 must be a pair"),
    ('{"instruction": "a", "output": "b", "history": 3}', "must be a list of pairs, got int"),
    ('{"instruction": "a", "output": "b", "system": 3}', "'system' must be a string"),
    ('{"prompt": "a", "response": ["b"]}', "'response' must be a string, got list"),
    ('{"prompt": "a", "rejected": "b"}', "'chosen' is missing beside 'rejected'"),
    ('{"prompt": "a", "chosen": 3, "rejected": "b"}', "'chosen' must be a string, a turn or"),
    ('{"chosen": "a", "rejected": "a"}', "needs a question and two different answers"),
    ('{"label": true, "text": "a"}', "a label needs a conversation"),
    ('{"text": 3}', "'text' and 'messages' are missing; found text"),
    ('{"a": ' + "[" * 100_000, "not JSON"),
    ("NaN", "expected an object, got float"),
    ("null", "expected an object, got NoneType"),
    ('"text"', "expected an object, got str"),
    ("text", "not JSON"),
    ('{"rejected_response": "a"}', "'messages' is missing"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_line_is_named_by_file_line_and_reason(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "好"}\n\n' + line + '\n{"text": "也好"}\n', "utf-8")
    with pytest.raises(ValueError, match=rf"x\.jsonl line 3: .*{message}"):
        list(read_records(path))
    told: list[str] = []
    assert [r.text for r in read_records(path, bad=told.append)] == ["好", "也好"]
    assert len(told) == 1
    assert "\n" not in told[0]


def test_a_line_of_other_bytes_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + '{"text": "好"}\n'.encode("gb18030") + b'{"text": "b"}\n')
    told: list[str] = []
    assert [r.text for r in read_records(path, bad=told.append)] == ["a", "b"]
    assert "line 2 is not UTF-8 at byte 10" in told[0]


def test_a_json_list_names_the_line_on_which_an_item_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[\n {"text": "a"},\n {"text":\n  "b"}, {"txt": "c"}\n]', "utf-8")
    told: list[str] = []
    assert [r.text for r in read_records(path, bad=told.append)] == ["a", "b"]
    assert told[0].startswith(f"{path} line 4: ")


def test_json_lines_that_are_named_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"text": "a"}\n{"text": "b"}\n', "utf-8")
    assert [r.text for r in read_records(path)] == ["a", "b"]


def test_tables_are_read_with_their_mark_of_bytes_and_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('content,summary\n问,"答\n案"\n问二,答二\n', "utf-8-sig")
    records = list(read_records(path))
    assert [r.messages[1].content for r in records] == ["答\n案", "答二"]
    assert records[1].where == f"{path} line 4"
    path.write_text("a,b\n1,2,3\n", "utf-8")
    with pytest.raises(ValueError, match="line 2: more fields than the header"):
        list(read_records(path))


def test_parquet_gives_the_same_records(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": [ASKED.to_dict(), TOLD.to_dict()]}, {"messages": [ASKED.to_dict()]}]
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    assert [len(r.messages) for r in read_records(path)] == [2, 1]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged or cut off"):
        list(read_records(path))
