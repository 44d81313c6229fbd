"""Data sets by their id on the hub."""

from __future__ import annotations

import pytest

from chatglm.data.examples import collect
from chatglm.data.hub import is_hub_name
from chatglm.tokenizer import load_tokenizer


def test_an_id_is_told_from_a_file() -> None:
    assert is_hub_name("owner/name")
    assert is_hub_name("owner/name@validation")
    assert not is_hub_name("data/train.jsonl")
    assert not is_hub_name("train")


def test_a_missing_file_that_could_be_an_id_says_both(toy) -> None:
    try:
        import datasets  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("datasets is installed")
    with pytest.raises(ImportError, match=r"no file data/train, .* hub datasets is not installed"):
        collect("data/train", load_tokenizer(toy), cutoff=10)
