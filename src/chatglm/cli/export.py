"""`chatglm export`: a model in the formats of llama.cpp and transformers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import note, say
from chatglm.cli.options import CommandError
from chatglm.cli.source import add_source_flags, load_weights, refuse_existing

if TYPE_CHECKING:
    from chatglm.checkpoint import Loaded

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help=say(
            "a GGUF file for llama.cpp, or files for transformers", "导出 GGUF 或 transformers"
        ),
        description=say(
            "Write a model as a GGUF file that llama.cpp and Ollama run, or in the public formats "
            "of transformers, which vLLM and SGLang read too. An adapter is merged first.",
            "把模型写成 llama.cpp、Ollama 可用的 GGUF 文件，或 transformers 公开格式"
            "（vLLM、SGLang 亦可加载）。适配器会先合并。",
        ),
    )
    add_source_flags(parser)
    parser.add_argument(
        "--format", required=True, choices=("gguf", "transformers"), help=say("which", "格式")
    )
    parser.add_argument(
        "--type",
        choices=TYPES,
        type=str.lower,
        help=say(
            "of the weights; default: q8_0 in GGUF, as they are in transformers' formats",
            "权重类型；GGUF 默认 q8_0，transformers 默认保持原样",
        ),
    )
    parser.add_argument(
        "--output",
        "-o",
        required=True,
        metavar="PATH",
        help=say("a new file (GGUF) or directory", "新文件（GGUF）或新目录"),
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the export, and print where it is."""
    if arguments.format == "transformers" and arguments.type not in (None, *_DTYPES):
        raise CommandError(
            f"--type {arguments.type} is GGUF's; transformers' formats take {', '.join(_DTYPES)}"
        )
    refuse_existing(Path(arguments.output))
    from chatglm.checkpoint import export_gguf, export_transformers, merge_adapter
    from chatglm.checkpoint.gguf.metadata import architecture_of
    from chatglm.checkpoint.transformers import format_for

    is_gguf = arguments.format == "gguf"
    loaded = load_weights(arguments, architecture_of if is_gguf else format_for)
    if loaded.adapter is not None:
        merge_adapter(loaded)
    if is_gguf:
        written = export_gguf(loaded, arguments.output, kind=arguments.type or "q8_0")
        for line in remarks(loaded):
            note(line)
    else:
        dtype = _DTYPES.get(arguments.type)
        written = export_transformers(loaded, arguments.output, dtype=dtype)
    print(written)
    return 0


def remarks(loaded: Loaded) -> list[str]:
    """What a user of the file should know."""
    from chatglm.checkpoint.gguf.metadata import is_square

    found = []
    if loaded.tokenizer is None:
        found.append(
            say(
                "the model has no tokenizer files; the GGUF file takes ids only",
                "模型没有分词器文件；该 GGUF 只能接收 token id",
            )
        )
    if not is_square(loaded.config):
        config = loaded.config
        found.append(
            say(
                f"{config.num_heads} heads of width {config.head_dim} do not make the model's "
                f"width {config.hidden_size}, as llama.cpp expects of this architecture; the file "
                "opens in chatglm only",
                f"注意力头宽度之和（{config.num_heads}×{config.head_dim}）不等于模型宽度 "
                f"{config.hidden_size}，llama.cpp 无法打开此文件，仅 chatglm 可用",
            )
        )
    return found
