"""Which model a command works on that handles files and not conversations."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import say
from chatglm.cli.options import INVALID_INPUT, CommandError

if TYPE_CHECKING:
    from chatglm.checkpoint import Loaded
    from chatglm.config import ModelConfig


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """The model, as a word or by --model, and an adapter on it."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="MODEL",
        help=say(
            "directory, GGUF file or hub name; default: $CHATGLM_MODEL, else the embedded model",
            "目录、GGUF 文件或 Hub 名称；默认 $CHATGLM_MODEL，否则用内置模型",
        ),
    )
    parser.add_argument("--model", help=say("the same by name", "同上"))
    parser.add_argument(
        "--adapter",
        metavar="DIRECTORY",
        help=say("a LoRA adapter in PEFT's format", "PEFT 格式的 LoRA 适配器"),
    )
    parser.add_argument("--revision", help=say("branch, tag or commit on the hub", "Hub 上的版本"))
    parser.add_argument(
        "--offline", action="store_true", help=say("never touch the network", "不访问网络")
    )


def load_weights(
    arguments: argparse.Namespace,
    check: Callable[[ModelConfig], object] | None = None,
    *,
    quantize: str | None = None,
    calibrate: str | None = None,
) -> Loaded:
    """The model that the flags name, on the CPU in the precision of its files unless quantized.

    check: called with the model's shape before its weights are read; an error of its is passed on.
    """
    from chatglm.adapters.peft import is_adapter
    from chatglm.checkpoint import load, resolve
    from chatglm.checkpoint.open import open_model

    if arguments.source is not None and arguments.model is not None:
        raise CommandError(
            f"two models are named, {arguments.source} and {arguments.model}; give one"
        )
    source = arguments.source or arguments.model or os.environ.get("CHATGLM_MODEL")
    offline = True if arguments.offline else None
    try:
        path = resolve(source, revision=arguments.revision, offline=offline)
        config = None if is_adapter(path) else open_model(path).config
    except (ValueError, FileNotFoundError) as error:
        raise unreadable(source, error) from error
    if check is not None and config is not None:
        check(config)
    try:
        return load(
            path,
            device="cpu",
            offline=offline,
            adapter=arguments.adapter,
            quantize=quantize,
            calibrate=calibrate,
        )
    except (ValueError, FileNotFoundError) as error:
        raise unreadable(source, error) from error


def unreadable(source: str | None, error: Exception) -> CommandError:
    """What is said of a model that cannot be read: invalid input where it is there."""
    is_damaged = source is None or Path(source).exists()
    return CommandError(str(error), INVALID_INPUT if is_damaged else 1)


def add_output_flag(parser: argparse.ArgumentParser) -> None:
    """`--output`, the new directory of a model that is written."""
    parser.add_argument(
        "--output",
        "-o",
        required=True,
        metavar="DIRECTORY",
        help=say("a new directory", "新目录"),
    )


def refuse_existing(path: Path, flag: str = "--output") -> None:
    """An error, before anything is loaded, where the output is there already."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise CommandError(f"{path} is there already; give a new {flag}")
