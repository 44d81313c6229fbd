"""`chatglm compare`: one prompt, the answers of several models side by side."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from chatglm.cli.console import error_line, paint, say, width
from chatglm.cli.options import (
    CommandError,
    add_sampling_flags,
    add_text,
    given_text,
    sampling_options,
    use_few_threads,
)
from chatglm.quantization.scheme import KINDS

NARROWEST = 28
GAP = " │ "


@dataclass(kw_only=True)
class Answer:
    """What a model said, and what it took; seconds to load, to the first text, and in all."""

    model: str
    text: str = ""
    error: str | None = None
    load: float = 0.0
    first: float = 0.0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def speed(self) -> float:
        """Tokens a second after the first text."""
        return max(self.completion_tokens - 1, 0) / max(self.seconds - self.first, 1e-9)

    def foot(self) -> str:
        """`12 + 80 tokens, 1.9 s, first after 0.05 s, 42.1 tokens/s`."""
        return (
            f"{self.prompt_tokens} + {self.completion_tokens} tokens, {self.seconds:.2f} s, "
            f"first after {self.first:.2f} s, {self.speed:.1f} tokens/s"
        )


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help=say("answers of several models side by side", "并排比较多个模型的回答"),
        description=say(
            "Ask several models the same; their answers side by side, with time and tokens.",
            "向多个模型提出同一问题，并排显示回答、用时与词元数。",
        ),
    )
    add_text(parser)
    parser.add_argument(
        "--models",
        required=True,
        metavar="A,B,…",
        help=say(
            "nano (the embedded one), openai/NAME, directories or hub names, with commas between",
            "以逗号分隔：nano（内置）、openai/名称、目录或 Hub 名称",
        ),
    )
    parser.add_argument("--system", help=say("system prompt", "系统提示词"))
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--quantize", choices=KINDS)
    parser.add_argument(
        "--offline", action="store_true", help=say("never touch the network", "不访问网络")
    )
    add_sampling_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask one after the other, so that none slows another down; 1 where one has failed."""
    names = [name.strip() for name in arguments.models.split(",") if name.strip()]
    if not names:
        raise CommandError("--models is empty; give e.g. --models nano,openai/gpt-4o")
    if len(set(names)) < len(names):
        raise CommandError(f"--models names a model twice: {arguments.models}")
    text = given_text(arguments.text)
    sampling_options(arguments)
    answers = []
    for name in names:
        answers.append(ask(name, text, arguments))
        if answers[-1].error is not None and not arguments.json:
            print(error_line(f"{name}: {answers[-1].error}"), file=sys.stderr)
    if arguments.json:
        told = [{**asdict(answer), "tokens_per_second": answer.speed} for answer in answers]
        print(json.dumps({"prompt": text, "answers": told}, ensure_ascii=False))
    else:
        show(answers)
    return 1 if any(answer.error is not None for answer in answers) else 0


def ask(name: str, text: str, arguments: argparse.Namespace) -> Answer:
    """One model's answer; what goes wrong with it is part of the comparison."""
    from chatglm.cli import sentence
    from chatglm.generation.chat import ChatGLM

    answer = Answer(model=name)
    try:
        start = time.perf_counter()
        model = ChatGLM.from_pretrained(
            None if name == "nano" else name,
            device=arguments.device,
            quantize=arguments.quantize,
            offline=True if arguments.offline else None,
        )
        if isinstance(model, ChatGLM):
            use_few_threads(model)
        answer.load = time.perf_counter() - start
        start = time.perf_counter()
        reply = model.stream(text, system=arguments.system, **sampling_options(arguments))
        for piece in reply:
            answer.first = answer.first or time.perf_counter() - start
            answer.text += piece
        answer.seconds = time.perf_counter() - start
        answer.prompt_tokens, answer.completion_tokens = reply.num_prompt, reply.num_new
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        answer.error = sentence(error)
    return answer


def show(answers: Sequence[Answer]) -> None:
    """Columns where the terminal is wide enough, else one below the other."""
    columns = shutil.get_terminal_size().columns
    room = (columns - len(GAP) * (len(answers) - 1)) // len(answers)
    if room < NARROWEST or not sys.stdout.isatty():
        for answer in answers:
            print(paint(f"== {answer.model}", "bold", sys.stdout))
            print(answer.text if answer.error is None else f"({answer.error})")
            if answer.error is None:
                print(paint(answer.foot(), "dim", sys.stdout))
        return
    bold: Callable[[str], str] = lambda line: paint(line, "bold", sys.stdout)  # noqa: E731
    dim: Callable[[str], str] = lambda line: paint(line, "dim", sys.stdout)  # noqa: E731
    rows([[answer.model] for answer in answers], room, bold)
    rows([[answer.error or answer.text] for answer in answers], room)
    rows([["" if answer.error else answer.foot()] for answer in answers], room, dim)


def rows(
    cells: Sequence[Sequence[str]], room: int, style: Callable[[str], str] = lambda line: line
) -> None:
    """Print cells beside each other, each wrapped to its column."""
    columns = [[line for text in cell for line in wrap(text, room)] for cell in cells]
    for i in range(max(map(len, columns))):
        parts = [column[i] if i < len(column) else "" for column in columns]
        padded = [style(part) + " " * (room - width(part)) for part in parts]
        print(GAP.join(padded).rstrip())


def wrap(text: str, room: int) -> Iterator[str]:
    """Lines no wider than a column; wide characters take two places, words stay whole if short."""
    for paragraph in text.split("\n"):
        line = ""
        for word in pieces(paragraph):
            if width(line + word) > room and line:
                yield line.rstrip()
                line = ""
            line += word
            while width(line) > room:
                cut = next(i for i in range(len(line), 0, -1) if width(line[:i]) <= room)
                yield line[:cut]
                line = line[cut:]
        yield line.rstrip()


def pieces(text: str) -> Iterator[str]:
    """Where a line may break: after a blank, around a wide character."""
    word = ""
    for letter in text:
        if width(letter) == 2:
            if word:
                yield word
            yield letter
            word = ""
            continue
        word += letter
        if letter == " ":
            yield word
            word = ""
    if word:
        yield word
