"""What a tuned model answers, beside what it answered before."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import paint, say

if TYPE_CHECKING:
    from chatglm.training.finetune import Tuning

_NUM = 3
_MOST_TOKENS = 96
FILE = "samples.json"


@dataclass(frozen=True)
class Sample:
    """A question, a reply to it, and the reply of the data."""

    question: str
    reply: str
    wanted: str


def ask(run: Tuning) -> list[Sample]:
    """Greedy replies of the model as it is now to the first held-out questions."""
    import sys

    from chatglm.adapters.prefix import PrefixTuned
    from chatglm.generation.chat import ChatGLM

    loaded = run.loaded
    if isinstance(run.network, PrefixTuned):
        loaded = replace(loaded, prefix=run.network.encoder().detach())
    was_training = run.network.training
    run.network.eval()
    model = ChatGLM(loaded)
    found: list[Sample] = []
    for record in run.material.questions:
        before = [*record.messages[:-1]] if not record.chosen else [*record.messages]
        answer = record.chosen[0] if record.chosen else record.messages[-1:]
        if not before or len(found) == _NUM:
            continue
        wanted = answer[0].content if isinstance(answer, tuple) else answer.content
        try:
            stream = model.stream_messages(
                before, temperature=0.0, max_new_tokens=_MOST_TOKENS, repetition_penalty=1.0
            )
            reply = "".join(stream)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            # A question that leaves no room, or scores that are no numbers: the run says more.
            print(error, file=sys.stderr)
            continue
        found.append(Sample(before[-1].content, reply, wanted))
    run.network.train(was_training)
    return found


def remembered(run: Tuning) -> list[Sample]:
    """The replies before the run, from the file that keeps them where it is resumed."""
    if not run.group.is_first:
        return []
    path = Path(run.config.output_dir) / FILE
    if run.trainer.step and path.is_file():
        rows = json.loads(path.read_text("utf-8"))
        return [Sample(row["question"], row["before"], row["wanted"]) for row in rows]
    samples = ask(run) if not run.trainer.step else []
    write(path, samples, None)
    return samples


def write(path: Path, before: list[Sample], after: list[Sample] | None) -> None:
    """Keep the replies as JSON."""
    rows = [
        {
            "question": old.question,
            "wanted": old.wanted,
            "before": old.reply,
            "after": after[i].reply if after else None,
        }
        for i, old in enumerate(before)
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")


def show_samples(before: list[Sample], after: list[Sample], path: Path | None = None) -> None:
    """Question, wanted reply, and the two replies, on stderr."""
    import sys

    for old, new in zip(before, after, strict=False):
        lines = (
            (say("question", "问题"), old.question, "bold"),
            (say("wanted  ", "数据"), old.wanted, "dim"),
            (say("before  ", "之前"), old.reply, "dim"),
            (say("after   ", "之后"), new.reply, "green"),
        )
        for name, text, style in lines:
            shown = " ".join(text.split())[:200]
            print(f"{name}  {paint(shown, style, sys.stderr)}", file=sys.stderr)
        print(file=sys.stderr)
    if path is not None:
        write(path, before, after)
