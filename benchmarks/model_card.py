"""The measured parts of the embedded model's card, written into it as they come.

    python -m benchmarks.model_card --bits bits.json --samples CORPUS/sft \\
        --curves runs/nano-4/metrics.jsonl runs/nano-5/metrics.jsonl

Replaces what stands between `<!-- name -->` and `<!-- /name -->` of the card: `replies` (ten fixed
prompts, greedy), `samples` (the first conversations of every held-out file, greedy) and `bits` (the
table of benchmarks/bits_per_character.py); `--curves` draws loss.png from the records of runs, one
after the other. A part whose option is left out stays as it is.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import zstandard

from chatglm import ChatGLM

CARD = Path(__file__).resolve().parents[1] / "src/chatglm/assets/nano/README.md"
PROMPTS = (
    "你好，我是一个程序员。",
    "你是谁？",
    "你能做什么？",
    "中国的首都是哪里？",
    "我今天心情不好，怎么办？",
    "怎样才能睡得更好？",
    "请把下面的句子翻译成英文：今天天气很好。",
    "请写一首关于春天的五言绝句。",
    "我想退货，应该怎么做？",
    "一加一等于几？",
)
"""They show what was learnt, so they are not taught: tests/training/test_everyday.py."""

LONGEST = 160


def reply(model: ChatGLM, messages: list[dict[str, str]]) -> str:
    """The greedy reply to a conversation, in one line."""
    from chatglm.messages import Message

    turns = [Message(role=m["role"], content=m["content"]) for m in messages]
    pieces = model.stream_messages(turns, temperature=0, max_new_tokens=LONGEST)
    return in_a_cell("".join(pieces))


def in_a_cell(text: str) -> str:
    """The text as it can stand in a cell of a Markdown table."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return "<br>".join(line for line in escaped.strip().splitlines() if line.strip())


def first_conversations(file: Path, count: int) -> Iterator[list[dict[str, str]]]:
    """The first conversations of a packed jsonl file, without their last answer."""
    with file.open("rb") as packed:
        reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(packed)
        lines = io.TextIOWrapper(reader, encoding="utf-8")
        for _, line in zip(range(count), lines, strict=False):
            messages = json.loads(line)["messages"]
            last = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
            yield messages[:last]


def replies(model: ChatGLM) -> str:
    """A table of the fixed prompts."""
    rows = [
        f"| {prompt} | {reply(model, [{'role': 'user', 'content': prompt}])} |"
        for prompt in PROMPTS
    ]
    return "\n".join(["| prompt | reply |", "|---|---|", *rows])


def samples(model: ChatGLM, folder: Path, count: int = 2) -> str:
    """A table of the first conversations of each held-out file."""
    rows = []
    for file in sorted(folder.glob("*.test.jsonl.zst")):
        for messages in first_conversations(file, count):
            asked = in_a_cell(messages[-1]["content"])
            asked = asked if len(asked) <= 200 else f"{asked[:200]}…"
            rows.append(f"| {file.name.split('.')[0]} | {asked} | {reply(model, messages)} |")
    return "\n".join(["| file | asked | reply |", "|---|---|---|", *rows])


def bits(file: Path) -> str:
    """The table of bits per character: a row a domain, a column a model."""
    models = json.loads(file.read_text("utf-8"))["models"]
    lines = ["| domain | " + " | ".join(models) + " |", "|---|" + "---:|" * len(models)]
    for domain in next(iter(models.values())):
        cells = (f"{domains[domain]['bits_per_character']:.2f}" for domains in models.values())
        lines.append(f"| {domain} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(files: Sequence[Path], target: Path) -> None:
    """Draw training and validation loss of runs that followed each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), dpi=100)
    seen = 0.0
    for number, file in enumerate(files):
        records = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for key, style, label in (
            ("loss", "-", None),
            ("validation_loss", "o-", f"{file.parent.name}, held out"),
        ):
            points = [(seen + r["tokens"] / 1e6, r[key]) for r in records if key in r]
            axes.plot(*zip(*points, strict=True), style, lw=0.8, color=f"C{number}", label=label)
        seen += records[-1]["tokens"] / 1e6
        axes.axvline(seen, color="0.8", lw=0.8)
    axes.set(xlabel="million tokens", ylabel="loss, nats per token")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(target)


def put(card: str, name: str, text: str) -> str:
    """The card with the part `name` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(card):
        raise ValueError(f"the card has no part {name}; put <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", card)


def main() -> None:
    """Rewrite the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=Path, help="JSON of benchmarks.bits_per_character")
    parser.add_argument("--samples", type=Path, help="folder of the held-out *.test.jsonl.zst")
    parser.add_argument("--curves", type=Path, nargs="+", help="metrics.jsonl of the runs")
    arguments = parser.parse_args()
    card = CARD.read_text("utf-8")
    model = ChatGLM.from_pretrained()
    assert isinstance(model, ChatGLM)
    card = put(card, "replies", replies(model))
    if arguments.samples is not None:
        card = put(card, "samples", samples(model, arguments.samples))
    if arguments.bits is not None:
        card = put(card, "bits", bits(arguments.bits))
    if arguments.curves is not None:
        draw(arguments.curves, CARD.with_name("loss.png"))
    CARD.write_text(card, "utf-8")


if __name__ == "__main__":
    main()
