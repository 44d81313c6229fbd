"""A hundred documents through the engine as one batch, beside one at a time.

    python -m benchmarks.batching [--documents 100] [--model MODEL] [--json FILE]

Both ways run in one process, on the same documents, greedily, and must give the same texts. The
documents are stories and notes that the benchmark makes; each is translated, gone on with and
summed up in the model's words. Processor time is compared, so that other work on the machine
counts for neither.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from chatglm.apps.text_model import Options, Question, TextModel
from chatglm.evaluate.metrics import table
from chatglm.generation.chat import ChatGLM

WHO = ("小明", "小红", "老师", "爷爷", "一位工程师", "图书管理员")
WHERE = ("在公园里", "在学校里", "在海边", "在图书馆", "在火车站")
WHAT = ("看到一只小猫", "写了一封信", "帮助了一个老人", "学会了下棋", "修好了一台电脑")
HOW = ("大家都很高兴。", "他觉得很累，但是很开心。", "后来天下雨了。", "这件事让人难忘。")


def make_documents(count: int, seed: int) -> list[str]:
    """Short Chinese documents, each another one."""
    chance = random.Random(seed)
    return [
        "".join(
            f"第{i}天，{chance.choice(WHO)}{chance.choice(WHERE)}{chance.choice(WHAT)}。"
            f"{chance.choice(HOW)}"
            for i in range(1, chance.randrange(2, 5))
        )
        for _ in range(count)
    ]


def questions(kind: str, documents: Sequence[str], most: int) -> list[Question]:
    """A request for each document."""
    wording = {
        "translate": "把下面的中文翻译成英文：\n",
        "go on": "请续写下面的故事：\n",
        "summarize": "请为以下文章写一段简短的摘要：\n",
    }[kind]
    options: Options = {"temperature": 0.0, "max_new_tokens": most}
    return [Question(prompt=wording + text, options=options) for text in documents]


def seconds(work: Callable[[], list[str]]) -> tuple[float, float, list[str]]:
    """Processor time, wall time and result of some work."""
    wall, own = time.perf_counter(), time.process_time()
    result = work()
    return time.process_time() - own, time.perf_counter() - wall, result


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    opened = ChatGLM.from_pretrained(arguments.model, max_num_seqs=arguments.max_num_seqs)
    model = TextModel(opened)  # type: ignore[arg-type]
    documents = make_documents(arguments.documents, arguments.seed)
    model.ask_many(questions("go on", documents[:2], 4))  # packs the weights, for both ways
    rows: dict[str, dict[str, object]] = {}
    for kind in ("translate", "go on", "summarize"):
        asked = questions(kind, documents, arguments.max_tokens)
        one, one_wall, alone = seconds(lambda asked=asked: [model.ask(q) for q in asked])
        many, many_wall, together = seconds(lambda asked=asked: model.ask_many(asked))
        rows[kind] = {
            "documents": len(documents),
            "one at a time, s": one,
            "batch, s": many,
            "ratio": one / many,
            "ratio of wall time": one_wall / many_wall,
            "same texts": sum(a == b for a, b in zip(alone, together, strict=True)),
        }
    print(table(rows, f"{opened.__class__.__name__}, one thread"))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, ensure_ascii=False, indent=2), "utf-8")


if __name__ == "__main__":
    main()
