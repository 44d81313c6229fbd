"""What a trained model answers or how it goes on, beside what it did before."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import paint, say

if TYPE_CHECKING:
    from chatglm.model import Transformer
    from chatglm.tokenizer import Tokenizer
    from chatglm.training.config import TrainConfig
    from chatglm.training.finetune import Tuning

_NUM = 3
_MOST_TOKENS = 96
_BEGINNING, _REST = 16, 32  # tokens of a held-out text that are given, and that are asked for
FILE = "samples.json"


@dataclass(frozen=True)
class Sample:
    """A question, a reply to it, and the reply of the data."""

    question: str
    reply: str
    wanted: str


def ask(run: Tuning) -> list[Sample]:
    """Greedy replies of the model as it is now to the first held-out questions."""
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
        return read(path)[0]
    samples = ask(run) if not run.trainer.step else []
    write(path, samples, None)
    return samples


class Continuations:
    """How a model goes on with held-out texts, before and after a run; the file beside the run's
    log keeps both, so that a resumed run still knows the first.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.sources = [s.path for s in config.validation if s.objective == "causal"]
        self.path = Path(config.output) / FILE

    def __call__(self, model: Transformer, tokenizer: Tokenizer, *, is_trained: bool) -> None:
        """Let the model go on, greedily; one that reads its context in both directions is left
        out.
        """
        if not self.sources or model.config.context != "causal":
            return
        from chatglm.data.shards import open_documents

        documents = open_documents(self.sources[0], "validation")
        texts = [documents[i].tolist() for i in range(min(len(documents), 100))]
        texts = [text for text in texts if len(text) > _BEGINNING + _REST // 2][:_NUM]
        try:
            found = [
                Sample(
                    tokenizer.decode(text[:_BEGINNING]),
                    tokenizer.decode(continued(model, text[:_BEGINNING])),
                    tokenizer.decode(text[_BEGINNING : _BEGINNING + _REST]),
                )
                for text in texts
            ]
        except (ValueError, ArithmeticError, RuntimeError) as error:
            print(error, file=sys.stderr)  # scores that are no numbers: the run says more
            return
        if not is_trained:
            write(self.path, found, None)
        elif self.path.is_file():
            write(self.path, read(self.path)[0], found)

    def show(self) -> None:
        """Print them."""
        if self.path.is_file():
            show_samples(*read(self.path))


def continued(model: Transformer, tokens: list[int]) -> list[int]:
    """The likeliest tokens after these."""
    from chatglm.generation.engine import Engine
    from chatglm.generation.sampling import Sampling
    from chatglm.prompt import Prompt

    was_training = model.training
    engine = Engine(model, max_num_seqs=1, max_num_tokens=2 * (_BEGINNING + _REST))
    limit = min(_REST, model.config.max_length - len(tokens))
    sampling = Sampling(temperature=0.0, max_new_tokens=limit)
    outputs = list(engine.stream(Prompt(tokens=tuple(tokens)), sampling))
    model.train(was_training)
    return [output.token for output in outputs if output.token is not None]


def read(path: Path) -> tuple[list[Sample], list[Sample]]:
    """The replies before and after a run, of which the latter may not be there."""
    rows = json.loads(path.read_text("utf-8"))
    return (
        [Sample(row["question"], row["before"], row["wanted"]) for row in rows],
        [Sample(r["question"], r["after"], r["wanted"]) for r in rows if r["after"] is not None],
    )


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
    for old, new in zip(before, after, strict=False):
        lines = (
            (say("given   ", "给定"), old.question, "bold"),
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
