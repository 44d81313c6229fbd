"""`chatglm batch`: a file of requests in, a file of answers out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from chatglm.cli.console import note, say
from chatglm.cli.inputs import ProgressLine
from chatglm.cli.options import INVALID_INPUT, CommandError
from chatglm.cli.serve_flags import add_models
from chatglm.errors import missing_extra


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "batch",
        help=say("answer a file of requests", "批量处理请求文件"),
        description=say(
            "Answer a file in OpenAI's batch format without a server. Run again, it goes on where "
            "it was stopped.",
            "按 OpenAI 批处理格式离线处理请求文件；中断后再次运行即可继续。",
        ),
    )
    parser.add_argument("input", type=Path, metavar="IN.jsonl")
    parser.add_argument("output", type=Path, metavar="OUT.jsonl")
    add_models(parser)
    group = parser.add_argument_group(say("limits", "限制"))
    for flag, default, meaning in (
        ("--max-num-seqs", 64, ("requests that run at once", "同时运行的请求数")),
        ("--max-num-batched-tokens", 2048, ("of prompts, read in one step", "每步读取的词元数")),
    ):
        group.add_argument(flag, type=int, default=default, help=f"{say(*meaning)} ({default})")
    parser.add_argument("-q", "--quiet", action="store_true", help=say("no progress", "不显示进度"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answer the requests; 1 where one of them was refused or failed."""
    try:
        import fastapi  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "fastapi", "serve") from error
    import asyncio

    from chatglm.cli.serve_models import load_models
    from chatglm.serve.app import create_app
    from chatglm.serve.batch import run_batch
    from chatglm.serve.settings import Settings

    total = checked(arguments.input)
    if min(arguments.max_num_seqs, arguments.max_num_batched_tokens) < 1:
        raise CommandError("--max-num-seqs and --max-num-batched-tokens must be at least 1")
    settings = Settings(
        accept_any_model=arguments.accept_any_model,
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        max_queue=1 << 20,
        max_body_bytes=1 << 30,
        request_timeout=0.0,
    )
    app = create_app(load_models(arguments, settings), settings)
    start = time.perf_counter()
    with ProgressLine(say("requests", "请求"), quiet=arguments.quiet) as line:
        outcome = asyncio.run(
            run_batch(
                app,
                arguments.input,
                arguments.output,
                width=2 * arguments.max_num_seqs,  # so that some are always being read
                progress=lambda done: line(done, total),
            )
        )
    if not arguments.quiet:
        seconds = time.perf_counter() - start
        before = total - outcome.done
        note(
            say(
                f"{outcome.done} requests ({before} were done before), {outcome.failed} not "
                f"answered, {outcome.tokens / max(seconds, 1e-9):.0f} tokens/s",
                f"完成 {outcome.done} 条（此前已完成 {before} 条），{outcome.failed} 条未成功，"
                f"每秒 {outcome.tokens / max(seconds, 1e-9):.0f} 词元",
            )
        )
    return 1 if outcome.failed else 0


def checked(path: Path) -> int:
    """How many requests the file has; an error before anything is loaded where one is none."""
    from chatglm.serve.batch import InvalidBatch, read_lines

    try:
        return sum(1 for _ in read_lines(path))
    except (InvalidBatch, UnicodeDecodeError) as error:
        raise CommandError(str(error), INVALID_INPUT) from error
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror or error})") from error
