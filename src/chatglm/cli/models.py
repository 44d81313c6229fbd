"""`chatglm models`: the published models and the memory that each needs."""

from __future__ import annotations

import argparse
import json

from chatglm.cli.console import say


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "models",
        help=say("the published models and the memory they need", "已发布的模型与所需内存"),
        description=say(
            "The published models: size, context, and the memory of the weights in GiB.",
            "已发布模型的参数量、上下文长度与权重内存（GiB）。",
        ),
    )
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from chatglm.checkpoint.describe import weight_bytes
    from chatglm.checkpoint.fill import build
    from chatglm.presets import PRESETS
    from chatglm.quantization.scheme import KINDS

    parameters, memory = {}, {}
    for name, config in PRESETS.items():
        model = build(config)
        parameters[name] = sum(p.numel() for p in model.parameters())
        memory[name] = {
            kind: weight_bytes(model, KINDS.get(kind)) for kind in ("bf16", "int8", "int4")
        }
    if arguments.json:
        table = {
            name: {
                "parameters": parameters[name],
                "context": config.max_length,
                "memory": memory[name],
            }
            for name, config in PRESETS.items()
        }
        print(json.dumps(table, ensure_ascii=False))
        return 0
    print(f"{'':20} {'size':>8} {'context':>10} {'bf16':>7} {'int8':>7} {'int4':>7}")
    for name, config in PRESETS.items():
        gib = " ".join(f"{value / 2**30:7.1f}" for value in memory[name].values())
        print(f"{name:20} {parameters[name] / 1e9:7.2f}B {config.max_length:>10,} {gib}")
    return 0
