from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.data.blank import BlankConfig, BlankIds, blank_example, blank_out, longest_text
from chatglm.data.example import NO_LOSS

IDS = BlankIds(mask=1000, sentence_mask=1001, document_mask=1002, start=1003, end=1004)


def test_blanks_are_the_official_construction(shared: Path) -> None:
    data = json.loads((shared / "oracles/more/glm2021/block_data.json").read_text("utf-8"))
    special = data["special_ids"]
    ids = BlankIds(
        mask=special["MASK"],
        sentence_mask=special["sMASK"],
        document_mask=special["gMASK"],
        start=special["sop"],
        end=special["eop"],
    )
    masks = {"bert": ids.mask, "gap_sentence": ids.sentence_mask, "generation": ids.document_mask}
    for case in data["cases"]:
        spans = [tuple(span) for span in case["spans_in_shuffled_order"]]
        text = np.array(case["text"])
        example = blank_out(text, spans, masks[case["task"]], ids)
        assert example.tokens.tolist() == case["tokens"]
        assert example.positions.tolist() == case["position_ids"]
        assert example.prefix == case["sep"]
        learnt = np.array(case["loss_mask"]) == 1
        assert ((example.labels != NO_LOSS) == learnt).all()
        assert example.labels[learnt].tolist() == np.array(case["targets"])[learnt].tolist()


@given(
    length=st.integers(2, 120),
    seed=st.integers(0, 10**6),
    config=st.sampled_from(
        [
            BlankConfig(document_rate=0, sentence_rate=0),
            BlankConfig(document_rate=0, sentence_rate=1),
            BlankConfig(document_rate=1),
            BlankConfig(spans_are_shuffled=False, context_is_learnt=True),
        ]
    ),
)
@settings(max_examples=400, deadline=None)
def test_a_blanked_text_can_be_rebuilt(length: int, seed: int, config: BlankConfig) -> None:
    rng = np.random.default_rng(seed)
    text = rng.integers(0, 50, length)
    example = blank_example(text, IDS, config, rng, frozenset({7, 9}))
    context = example.tokens[: example.prefix].tolist()
    filled: dict[int, list[int]] = {}
    part = list(range(example.prefix, len(example)))
    starts = [i for i in part if example.tokens[i] == IDS.start]
    assert starts
    for start, stop in zip(starts, [*starts[1:], len(example)], strict=True):
        hole = int(example.positions[0, start])
        assert example.positions[1, start:stop].tolist() == list(range(1, stop - start + 1))
        assert example.labels[stop - 1] == IDS.end
        assert (
            example.labels[start : stop - 1].tolist() == example.tokens[start + 1 : stop].tolist()
        )
        filled[hole] = example.tokens[start + 1 : stop].tolist()
    rebuilt: list[int] = []
    for index, token in enumerate(context):
        rebuilt += filled.pop(index) if token >= 1000 else [token]
    assert rebuilt == text.tolist()
    assert not filled
    if not config.spans_are_shuffled:
        holes = example.positions[0, starts].tolist()
        assert holes == sorted(holes)
    if not config.context_is_learnt:
        assert (example.labels[: example.prefix] == NO_LOSS).all()


@given(length=st.integers(16, 300), seed=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_the_longest_text_fits_its_row(length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = BlankConfig(document_rate=0, sentence_rate=0)
    text = rng.integers(0, 50, longest_text(length, config))
    assert len(blank_example(text, IDS, config, rng)) <= length + 4


def test_short_spans_cover_their_share() -> None:
    rng = np.random.default_rng(0)
    config = BlankConfig(document_rate=0, sentence_rate=0)
    blanked = [
        int((e.labels != NO_LOSS).sum() - (e.tokens == IDS.start).sum()) / 200
        for e in (blank_example(np.arange(200), IDS, config, rng) for _ in range(200))
    ]
    assert abs(float(np.mean(blanked)) - 0.15) < 0.01
