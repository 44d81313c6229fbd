"""What a model makes of a blank: the word that stood there, beside the same model's guess from the
left alone.

    python -m benchmarks.blanks --eval HELDOUT.jsonl [--model DIRECTORY] [--limit 1000]

A word of a text's first 64 tokens is blanked out, one a text, never a mark of punctuation. Printed
are the mean loss of that word in nats and how often it is the likeliest.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch

from chatglm import ChatGLM
from chatglm.prompt import Prompt

LENGTH = 64
MARGIN = 8
"""Tokens that stand on either side of a blank at least."""


def blanked(model: ChatGLM, texts: list[str], seed: int = 0) -> Iterator[tuple[list[int], int]]:
    """The tokens of texts, and which of each is to be blanked out."""
    chance = random.Random(seed)
    for text in texts:
        tokens = model.tokenizer.encode(text)[:LENGTH]
        places = [
            i
            for i in range(MARGIN, len(tokens) - MARGIN)
            if model.tokenizer.decode([tokens[i]]).strip().isalnum()
        ]
        if places:
            yield tokens, chance.choice(places)


@torch.inference_mode()
def guess(model: ChatGLM, prompt: Prompt, word: int) -> tuple[float, bool]:
    """The loss of a word behind a prompt, and whether it is the likeliest."""
    scores = model.transformer.logits(model.hidden(prompt)[:, -1:])[0, -1].float().log_softmax(-1)
    return -float(scores[word]), int(scores.argmax()) == word


def main() -> None:
    """Print a line for the blank and one for the left alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int, default=1000)
    arguments = parser.parse_args()
    model = ChatGLM.from_pretrained(arguments.model, dtype="float32")
    assert isinstance(model, ChatGLM)
    special = model.tokenizer.special
    template, start = model.tokenizer.template, [special["<sop>"]]
    found: dict[str, list[tuple[float, bool]]] = {"blank": [], "left": []}
    lines = arguments.eval.read_text("utf-8").splitlines()[: arguments.limit]
    for tokens, at in blanked(model, [json.loads(line)["text"] for line in lines]):
        word = tokens[at]
        context = [*tokens[:at], special["[MASK]"], *tokens[at + 1 :]]
        found["blank"].append(guess(model, template.as_blank("", context, start), word))
        left = Prompt(tokens=(*template.before_text, *tokens[:at]))
        found["left"].append(guess(model, left, word))
    for name, results in found.items():
        loss = sum(nats for nats, _ in results) / len(results)
        share = sum(right for _, right in results) / len(results)
        print(f"{name}: {len(results)} words, {loss:.2f} nats, {share:.1%} likeliest")


if __name__ == "__main__":
    main()
