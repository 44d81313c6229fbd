"""`chatglm info`: what a model is and what it needs, without loading it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import paint, say
from chatglm.cli.options import INVALID_INPUT, CommandError

if TYPE_CHECKING:
    from chatglm.checkpoint.describe import Description
    from chatglm.checkpoint.describe_adapter import AdapterDescription


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "info",
        help=say("a model's shape, files and memory", "查看模型的结构、文件和所需内存"),
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=os.environ.get("CHATGLM_MODEL"),
        help=say(
            "directory, GGUF file, adapter or hub name; default: $CHATGLM_MODEL, else the embedded "
            "model",
            "目录、GGUF 文件、适配器或 Hub 名称；默认 $CHATGLM_MODEL，否则用内置模型",
        ),
    )
    parser.add_argument("--revision", help=say("branch, tag or commit on the hub", "Hub 上的版本"))
    parser.add_argument(
        "--offline", action="store_true", help=say("never touch the network", "不访问网络")
    )
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    from chatglm.adapters.peft import is_adapter
    from chatglm.checkpoint import resolve
    from chatglm.checkpoint.describe import describe
    from chatglm.checkpoint.describe_adapter import describe_adapter

    offline = True if arguments.offline else None
    try:
        path = resolve(arguments.model, revision=arguments.revision, offline=offline)
        if is_adapter(path) and not (path / "config.json").is_file():
            adapter = describe_adapter(path)
            show(adapter_record(adapter), adapter_lines(adapter), as_json=arguments.json)
            return 0
        found = describe(path)
    except (ValueError, FileNotFoundError) as error:
        is_damaged = arguments.model is None or Path(arguments.model).exists()
        raise CommandError(str(error), INVALID_INPUT if is_damaged else 1) from error
    show(record(found), lines(found), as_json=arguments.json)
    return 0


def show(told: dict[str, object], lines: list[tuple[str, str]], *, as_json: bool) -> None:
    """Print a description for programs or for people."""
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
        return
    width = max(len(name) for name, _ in lines) + 1
    for name, value in lines:
        print(f"{paint(f'{name}:'.ljust(width), 'bold', sys.stdout)} {value}")


def record(found: Description) -> dict[str, object]:
    """The description as one JSON object; sizes in bytes."""
    config = found.config
    return {
        "directory": str(found.directory),
        "base": str(found.base),
        "generation": found.generation,
        "format": found.format,
        "parameters": found.num_parameters,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "vocabulary": config.vocab_size,
        "context": config.max_length,
        "experts": config.experts.num_experts if config.experts else 0,
        "files": found.files,
        "memory": found.memory,
        "cache_per_token": found.cache_per_token,
        "notes": list(found.notes),
    }


def lines(found: Description) -> list[tuple[str, str]]:
    """The description for people, name and value."""
    config = found.config
    shape = (
        f"{config.num_layers} layers, width {config.hidden_size}, {config.num_heads} heads"
        f" ({config.num_kv_heads} for keys), {config.vocab_size:,} words"
    )
    if config.experts:
        shape += f", {config.experts.num_experts} experts ({config.experts.num_active} at a time)"
    told = [
        ("directory", str(found.directory)),
        ("generation", f"{found.generation} (files: {found.format})"),
        ("shape", shape),
        ("parameters", f"{found.num_parameters:,}"),
        ("context", f"{config.max_length:,} tokens"),
        ("files", f"{len(found.files)}, {readable(sum(found.files.values()))}"),
        ("memory", ", ".join(f"{kind} {readable(size)}" for kind, size in found.memory.items())),
        ("cache", f"{readable(1024 * found.cache_per_token)} for 1024 tokens in bf16"),
    ]
    if found.base != found.directory:
        told.insert(1, ("base", str(found.base)))
    return told + [("note", note) for note in found.notes]


def adapter_record(found: AdapterDescription) -> dict[str, object]:
    """An adapter's description as one JSON object; sizes in bytes."""
    return {
        "directory": str(found.directory),
        "adapter": found.kind,
        "ranks": {str(rank): count for rank, count in found.ranks.items()},
        "targets": list(found.targets),
        "parameters": found.num_parameters,
        "files": found.files,
        "base_name": found.base_name,
        "base": None if found.base is None else record(found.base),
    }


def adapter_lines(found: AdapterDescription) -> list[tuple[str, str]]:
    """An adapter's description for people, name and value, with its base's below."""
    told = [("directory", str(found.directory)), ("adapter", found.kind)]
    if found.kind == "P-tuning v2":
        told.append(("length", f"{next(iter(found.ranks), 0)} tokens"))
    else:
        ranks = ", ".join(f"{rank} (×{count})" for rank, count in found.ranks.items())
        told += [("rank", ranks), ("targets", ", ".join(found.targets))]
    told += [
        ("parameters", f"{found.num_parameters:,}"),
        ("files", f"{len(found.files)}, {readable(sum(found.files.values()))}"),
        ("trained on", found.base_name or "the config does not say"),
    ]
    if found.base is None:
        return [*told, ("base", "not found here; give its directory when loading, as base=")]
    return told + [(f"base's {name}", value) for name, value in lines(found.base)]


def readable(size: int) -> str:
    """A size in the unit that suits it."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
