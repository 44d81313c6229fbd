"""Flags that several commands share, and the text that a command works on."""

from __future__ import annotations

import argparse
import os
import select
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import note, say
from chatglm.quantization.scheme import KINDS

if TYPE_CHECKING:
    from chatglm.generation.chat import ChatGLM, Options
    from chatglm.generation.remote import RemoteChatGLM

USAGE, INVALID_INPUT = 2, 3


class CommandError(ValueError):
    """A sentence for the user and the exit code that goes with it."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is loaded."""
    group = parser.add_argument_group(say("model", "模型"))
    group.add_argument(
        "--model",
        default=os.environ.get("CHATGLM_MODEL"),
        help=say(
            "directory, hub name or openai/NAME; default: $CHATGLM_MODEL, else the embedded model",
            "目录、Hub 名称或 openai/名称；默认 $CHATGLM_MODEL，否则用内置模型",
        ),
    )
    group.add_argument("--revision", help=say("branch, tag or commit on the hub", "Hub 上的版本"))
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    group.add_argument(
        "--quantize",
        choices=KINDS,
        metavar="KIND",
        help=say(
            f"fewer bits per weight, made while loading: {', '.join(KINDS)}",
            f"加载时量化，省内存：{'、'.join(KINDS)}",
        ),
    )
    add_calibrate_flag(group)
    group.add_argument(
        "--adapter",
        metavar="DIRECTORY",
        help=say("a LoRA adapter in PEFT's format", "PEFT 格式的 LoRA 适配器"),
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--offline", action="store_true", help=say("never touch the network", "不访问网络")
    )


def add_calibrate_flag(group: argparse._ActionsContainer) -> None:
    """The texts that quantizing makes up for its rounding on."""
    group.add_argument(
        "--calibrate",
        nargs="?",
        const="general",
        metavar="FILE",
        help=say(
            "with --quantize: lose less, by the model's inputs on these texts (without FILE: "
            "conversations in the package); slower to load",
            "配合 --quantize：用这些文本上的激活校准，误差更小，加载更慢（不给 FILE 则用内置对话）",
        ),
    )


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen; what is left out is the model's own default."""
    group = parser.add_argument_group(say("sampling", "采样"))
    group.add_argument("--temperature", type=float, help=say("0 is greedy", "0 为贪心"))
    group.add_argument("--top-p", type=float)
    group.add_argument("--top-k", type=int)
    group.add_argument("--min-p", type=float)
    group.add_argument("--repetition-penalty", type=float)
    group.add_argument("--presence-penalty", type=float)
    group.add_argument("--frequency-penalty", type=float)
    group.add_argument(
        "--max-tokens", type=int, help=say("most tokens of a reply", "回复的最大长度")
    )
    group.add_argument(
        "--stop",
        action="append",
        help=say("text that ends the reply; may be repeated", "遇到该文本即停止，可多次给出"),
    )
    group.add_argument("--seed", type=int, help=say("same seed, same reply", "种子相同则回复相同"))


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """How the answer is shown."""
    group = parser.add_argument_group(say("output", "输出"))
    group.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=say("show text while it is made", "边生成边显示"),
    )
    group.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    group.add_argument(
        "-v", "--verbose", action="store_true", help=say("tokens/s on stderr", "显示速度")
    )


def sampling_options(arguments: argparse.Namespace) -> Options:
    """The sampling flags that were given, as options of a request."""
    names = {
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "repetition_penalty": "repetition_penalty",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "max_tokens": "max_new_tokens",
        "stop": "stop",
        "seed": "seed",
    }
    given = {
        option: value
        for flag, option in names.items()
        if (value := getattr(arguments, flag)) is not None
    }
    from chatglm.generation.sampling import Sampling

    checked = {key: tuple(value) if key == "stop" else value for key, value in given.items()}
    try:
        Sampling(**checked)  # type: ignore[arg-type]
    except ValueError as error:
        raise CommandError(str(error)) from error
    return given  # type: ignore[return-value]


def load_model(arguments: argparse.Namespace) -> ChatGLM | RemoteChatGLM:
    """The model that the flags name."""
    from chatglm.generation.chat import ChatGLM

    try:
        model = ChatGLM.from_pretrained(
            arguments.model,
            dtype=arguments.dtype,
            device=arguments.device,
            revision=arguments.revision,
            offline=True if arguments.offline else None,
            quantize=arguments.quantize,
            calibrate=arguments.calibrate,
            adapter=arguments.adapter,
        )
    except (ValueError, FileNotFoundError) as error:
        # A directory that is there and cannot be read is invalid input; one that is not there is a
        # plain failure.
        is_damaged = arguments.model is None or Path(arguments.model).exists()
        raise CommandError(str(error), INVALID_INPUT if is_damaged else 1) from error
    if isinstance(model, ChatGLM):
        use_few_threads(model)
    return model


def use_few_threads(model: ChatGLM) -> None:
    """One thread for a small model: its operators are too short to share with a busy processor."""
    import torch

    num_weights = sum(p.numel() for p in model.transformer.parameters())
    if num_weights < 50_000_000 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def local_model(arguments: argparse.Namespace, what: str) -> ChatGLM:
    """The model that the flags name, where a remote one cannot do `what`."""
    if str(arguments.model or "").startswith("openai/"):
        raise CommandError(
            f"{what} needs the weights and {arguments.model} is a remote service; "
            "leave --model out to use the embedded model"
        )
    from chatglm.generation.chat import ChatGLM

    model = load_model(arguments)
    assert isinstance(model, ChatGLM)
    return model


def add_text(parser: argparse.ArgumentParser) -> None:
    """The positional text."""
    parser.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help=say(
            "the text; - stands for standard input, which is read too where it is a pipe",
            "文本；- 表示标准输入，有管道输入时也会读取",
        ),
    )


def given_text(words: Sequence[str]) -> str:
    """The text from the arguments and, where there is one, from the pipe, which goes first."""
    takes_pipe = "-" in words or (has_input() if words else not sys.stdin.isatty())
    piped = read_stdin().rstrip("\n") if takes_pipe else ""
    parts = [piped if word == "-" else word for word in words]
    if "-" not in words:
        parts.insert(0, piped)
    text = "\n".join(part for part in parts if part)
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise CommandError(
            "the text is not valid UTF-8; convert it first, e.g. iconv -f GB18030 -t UTF-8",
            INVALID_INPUT,
        )
    if not text.strip():
        raise CommandError(
            'the prompt is empty; give some text, e.g. chatglm generate "你好", or pipe a file in'
        )
    return text


def has_input() -> bool:
    """Whether standard input is a file, or a pipe that brings something within half a second."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    if not stat.S_ISFIFO(mode):
        return stat.S_ISREG(mode)
    if select.select([sys.stdin], [], [], 0.5)[0]:
        return True
    note(
        say("the open pipe is not read; give - to wait for it", "管道暂无内容，未读取；加 - 可等待")
    )
    return False


def read_stdin() -> str:
    """All of standard input, which has to be UTF-8."""
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(
            f"standard input is not valid UTF-8 (byte {error.start}: 0x{data[error.start]:02x}); "
            "convert it first, e.g. iconv -f GB18030 -t UTF-8",
            INVALID_INPUT,
        ) from error
