"""`chatglm merge`: an adapter made part of its base's weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from chatglm.cli.console import say
from chatglm.cli.options import CommandError
from chatglm.cli.source import add_output_flag, add_source_flags, load_weights, refuse_existing


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "merge",
        help=say("make a LoRA adapter part of its model", "把 LoRA 适配器合并进模型"),
        description=say(
            "Add a LoRA adapter to the weights that it was trained on, and save the whole in the "
            "base's own format. MODEL may be the adapter itself, which names its base.",
            "把 LoRA 适配器加到其基座权重上，并以基座的原格式保存。MODEL 也可以直接是适配器目录。",
        ),
    )
    add_source_flags(parser)
    add_output_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the merged model, and print where it is."""
    refuse_existing(Path(arguments.output))
    loaded = load_weights(arguments)
    if loaded.adapter is None:
        raise CommandError(f"{loaded.directory} is no adapter; give one with --adapter DIRECTORY")
    from chatglm.checkpoint import merge_adapter, save

    merge_adapter(loaded)
    print(save(loaded, arguments.output))
    return 0
