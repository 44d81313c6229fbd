"""Files to examples: what is learnt, what is counted, in which order it comes."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.data.chat import examples_of, pair_of
from chatglm.data.check import examine
from chatglm.data.epochs import Epochs, fill_rows, shares_of
from chatglm.data.example import NO_LOSS, Example, counting
from chatglm.data.examples import collect, read_spec, split
from chatglm.data.kinds import as_record
from chatglm.tokenizer import Tokenizer, load_tokenizer

NANO = load_tokenizer(Path(str(files("chatglm") / "assets" / "nano")))
TALK = {
    "messages": [
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "甲"},
        {"role": "user", "content": "二"},
        {"role": "assistant", "content": "乙"},
    ]
}


def learnt(example: Example, tokenizer: Tokenizer) -> str:
    labels = [label for label in example.labels.tolist() if label != NO_LOSS]
    return tokenizer.decode(labels, skip_special=False)


def official(shared: Path, name: str) -> Tokenizer:
    return load_tokenizer(shared / "tokenizers" / name)


def test_role_formats_learn_every_reply_and_what_ends_it() -> None:
    (example,) = examples_of(as_record(TALK, ""), NANO)
    assert learnt(example, NANO) == "甲<|user|>乙<|user|>"
    assert example.prefix == 0


def test_a_reply_that_is_switched_off_is_read_and_not_learnt() -> None:
    turns = [dict(turn) for turn in TALK["messages"]]
    turns[1]["loss"] = False
    (example,) = examples_of(as_record({"conversations": turns}, ""), NANO)
    assert learnt(example, NANO) == "乙<|user|>"
    turns[3]["loss"] = False
    with pytest.raises(ValueError, match="no assistant turn of it is learnt"):
        examples_of(as_record({"conversations": turns}, ""), NANO)


@pytest.mark.parametrize(("name", "end"), [("chatglm-6b", "<eop>"), ("chatglm2-6b", "<eos>")])
def test_formats_that_learn_the_last_reply_give_an_example_for_each(
    shared: Path, name: str, end: str
) -> None:
    tokenizer = official(shared, name)
    examples = examples_of(as_record(TALK, ""), tokenizer)
    assert [learnt(e, tokenizer).replace(" ", "") for e in examples] == [f"甲{end}", f"乙{end}"]


def test_chatglm_6b_sees_its_question_whole_and_counts_the_reply_in_the_second_plane(
    shared: Path,
) -> None:
    tokenizer = official(shared, "chatglm-6b")
    example = examples_of(as_record(TALK, ""), tokenizer)[0]
    sop = tokenizer.special["<sop>"]
    assert example.tokens[example.prefix] == sop
    hole = example.tokens.tolist().index(tokenizer.special["[gMASK]"])
    assert set(example.positions[0, example.prefix :].tolist()) == {hole}
    assert example.positions[1, example.prefix :].tolist() == list(
        range(1, len(example) - example.prefix + 1)
    )


def test_glm_2021_learns_what_follows(shared: Path) -> None:
    tokenizer = official(shared, "glm-10b-chinese")
    (example,) = examples_of(as_record({"prompt": "一加一", "response": "等于二"}, ""), tokenizer)
    assert learnt(example, tokenizer).replace(" ", "") == "等于二<|endofpiece|>"
    assert example.prefix > 0


def test_a_pair_learns_its_answers_alone() -> None:
    row = {"messages": TALK["messages"][:3], "chosen": "好", "rejected": "坏"}
    chosen, rejected = pair_of(as_record(row, ""), NANO)
    assert learnt(chosen, NANO) == "好<|user|>"
    assert learnt(rejected, NANO) == "坏<|user|>"


def test_conversations_that_a_format_has_no_place_for_are_refused(shared: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    asked = {"role": "user", "content": "问"}
    called = as_record({"messages": [asked, call]}, "")
    first = official(shared, "chatglm-6b")
    with pytest.raises(ValueError, match="chat format knows none"):
        examples_of(called, first)
    with pytest.raises(ValueError, match="words beside its tool call"):
        examples_of(as_record({"messages": [asked, {**call, "content": "稍等"}]}, ""), NANO)
    with pytest.raises(ValueError, match="it ends with user"):
        examples_of(as_record({"messages": [asked]}, ""), NANO)
    empty = as_record({"messages": [asked, {"role": "assistant", "content": " "}]}, "")
    with pytest.raises(ValueError, match="turn 2 is an assistant's and empty"):
        examples_of(empty, NANO)


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


def test_what_is_too_long_is_refused_cut_or_left_out_as_asked(tmp_path: Path) -> None:
    long = {"prompt": "短", "response": "长" * 400}
    file = write(tmp_path / "a.jsonl", TALK, long, {"prompt": "长" * 300, "response": "短"})
    with pytest.raises(ValueError, match=r"line 2: .*the cutoff is 100; raise --cutoff-len"):
        collect(file, NANO, cutoff=100)
    found = collect(file, NANO, cutoff=100, skip_bad=True)
    assert (len(found.items), len(found.bad), found.num_truncated) == (1, 2, 0)
    found = collect(file, NANO, cutoff=100, truncate=True, skip_bad=True)
    assert (len(found.items), len(found.bad), found.num_truncated) == (2, 1, 1)
    assert "hold nothing to learn" in found.bad[0]
    assert max(len(item[0]) for item in found.items) == 100
    assert "1 truncated; 1 left out" in found.described()


def test_a_long_text_is_cut_into_pieces_that_lose_no_target(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"text": "今天天气很好，适合出门。" * 30})
    whole = collect(file, NANO, cutoff=10_000)
    parts = collect(file, NANO, cutoff=32)
    assert parts.num_targets == whole.num_targets
    assert len(parts.items) > 3


def test_a_source_says_its_count_and_weight() -> None:
    spec = read_spec("a/b.jsonl#500:0.7")
    assert (spec.path, spec.count, spec.weight) == ("a/b.jsonl", 500, 0.7)
    assert read_spec("a/b.jsonl").weight is None


def test_a_preference_file_is_told_from_a_conversation(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", {"prompt": "问", "chosen": "好", "rejected": "坏"})
    with pytest.raises(ValueError, match="--objective dpo"):
        collect(file, NANO, cutoff=100)
    assert len(collect(file, NANO, cutoff=100, wants_pairs=True).items[0]) == 2
    with pytest.raises(ValueError, match="no 'chosen' and 'rejected'"):
        collect(write(tmp_path / "t.jsonl", TALK), NANO, cutoff=100, wants_pairs=True)


def test_the_validation_split_depends_on_the_seed_alone() -> None:
    train, kept = split(100, 0.1, seed=3)
    assert (len(train), len(kept)) == (90, 10)
    assert split(100, 0.1, seed=3) == (train, kept)
    assert split(100, 10, seed=4)[1] != kept
    with pytest.raises(ValueError, match="leaves none to learn from"):
        split(3, 5, seed=0)


def numbered(lengths: list[int]) -> list[tuple[Example]]:
    return [
        (Example(tokens=np.full(n, i), labels=np.full(n, i), positions=counting(n)),)
        for i, n in enumerate(lengths)
    ]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.integers(1, 9),
    st.sampled_from([None, 40, 64]),
    st.booleans(),
)
def test_an_epoch_holds_every_example_once_and_a_resumed_run_goes_on_in_it(
    lengths: list[int], rows: int, length: int | None, by_length: bool
) -> None:
    items = numbered(lengths)

    def epochs() -> Epochs:
        shares = shares_of([len(items)], [None])
        return Epochs(items, shares, rows=rows, seed=5, length=length, by_length=by_length)

    source = epochs()
    size = len(source.batches(0))
    batches = [source.next() for _ in range(2 * size)] if length is None else [
        source.next() for _ in range(size)
    ]  # fmt: skip
    seen = sorted(i for batch in batches[:size] for row in batch for i in row)
    assert seen == list(range(len(items)))
    for batch in batches:
        assert len(batch) <= rows
        for row in batch:
            assert sum(lengths[i] for i in row) <= max(length or 40, 40)
    again = epochs()
    middle = size // 2
    for _ in range(middle):
        again.next()
    third = epochs()
    third.load_state(again.state())
    assert [third.next() for _ in range(size - middle)] == batches[middle:size]


def test_sources_are_mixed_by_weight_and_none_is_forgotten() -> None:
    items = numbered([3] * 40)
    shares = shares_of([10, 30], [1.0, 1.0])
    source = Epochs(items, shares, rows=8, seed=0)
    seen = [i for batch in source.batches(0) for row in batch for i in row]
    assert (sum(i < 10 for i in seen), len(seen)) == (20, 40)
    later = [i for epoch in range(3) for b in source.batches(epoch) for row in b for i in row]
    assert set(later) == set(range(40))


def test_rows_are_padded_and_packed_examples_keep_apart() -> None:
    items = [item[0] for item in numbered([3, 2, 4])]
    rows = fill_rows([[items[0], items[1]], [items[2]]], pad=9)
    assert rows.documents.shape == (2, 16)
    assert rows.documents[:, :5].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, -1]]
    assert (rows.documents[:, 5:] == -1).all()
    assert rows.tokens[1, 4] == 9
    assert rows.labels[1, 4] == NO_LOSS
    assert rows.positions[0, 0, :5].tolist() == [0, 1, 2, 0, 1]


def test_a_check_counts_what_is_doubtful(tmp_path: Path) -> None:
    rows = [{"prompt": f"第{i}问", "response": "答" * 70 + "。"} for i in range(8)]
    rows += [rows[0], {"prompt": "第1问", "response": "别的。"}]
    rows += [
        {"prompt": "乱", "response": "锟斤拷锟斤拷。"},
        {"prompt": "断", "response": "字" * 80},
    ]
    found = collect(write(tmp_path / "a.jsonl", *rows), NANO, cutoff=1000, skip_bad=True)
    report = examine(found, cutoff=60)
    assert report.records == 12
    assert (report.num_duplicates, report.num_contradictions) == (1, 1)
    assert report.duplicates[0].endswith("line 1")
    assert (report.num_mojibake, report.num_unfinished) == (1, 1)
    assert sum(count for _, _, count in report.histogram) == 12
    assert report.longer_than_cutoff == 10
