"""`chatglm quantize`: a model in few bits, as a directory that loads as it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from chatglm.cli.console import say
from chatglm.cli.options import CommandError, add_calibrate_flag
from chatglm.cli.source import add_source_flags, load_weights, refuse_existing
from chatglm.quantization.scheme import INTEGER_KINDS


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "quantize",
        help=say("save a model in few bits", "保存量化后的模型"),
        description=say(
            "Quantize a model's linears and save the whole as a directory that every command "
            "takes. The weights are read one by one, with --calibrate layer by layer.",
            "量化模型的线性层并保存为目录，所有命令均可直接加载。权重逐个读取；"
            "使用 --calibrate 时逐层处理。",
        ),
    )
    add_source_flags(parser)
    parser.add_argument(
        "--to", required=True, metavar="DIRECTORY", help=say("a new directory", "新目录")
    )
    parser.add_argument(
        "--kind",
        choices=INTEGER_KINDS,
        default="int4",
        help=say(
            "bits, columns that share a scale (g64: 64), zero points; default int4",
            "位数、共用缩放的列数（g64 即 64）、零点；默认 int4",
        ),
    )
    add_calibrate_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the quantized model, and print where it is."""
    refuse_existing(Path(arguments.to), "--to")
    if arguments.adapter is not None:
        raise CommandError(
            f"the adapter {arguments.adapter} would stay apart from the quantized weights; merge "
            "it first: chatglm merge"
        )
    loaded = load_weights(arguments, quantize=arguments.kind, calibrate=arguments.calibrate)
    from chatglm.checkpoint import save

    print(save(loaded, arguments.to))
    return 0
