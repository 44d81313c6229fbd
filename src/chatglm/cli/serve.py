"""`chatglm serve`: an OpenAI-compatible service and a page."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chatglm.cli.cluster import add_serving_flags, serve_in_replicas
from chatglm.cli.console import note, say
from chatglm.cli.options import CommandError
from chatglm.cli.serve_flags import add_door, add_limits, add_log, add_models, make_settings
from chatglm.errors import missing_extra

if TYPE_CHECKING:
    from chatglm.generation.chat import ChatGLM
    from chatglm.serve.settings import Settings

INTERRUPTED = 130


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help=say("an OpenAI-compatible service and a page", "OpenAI 兼容服务与网页"),
        description=say(
            "Serve models over HTTP as OpenAI's API does, and a page to talk to them.",
            "以 OpenAI 兼容接口提供模型服务，并附带网页界面。",
        ),
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="[NAME=]MODEL",
        help=say("the first model, as --model", "第一个模型，同 --model"),
    )
    add_models(parser)
    add_door(parser)
    add_limits(parser)
    add_serving_flags(parser)
    add_log(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "fastapi", "serve") from error
    import signal

    from chatglm.cli.serve_models import load_models
    from chatglm.serve import log
    from chatglm.serve.app import create_app
    from chatglm.serve.http import make_server

    settings = make_settings(arguments)
    if arguments.source is not None:
        arguments.model = [arguments.source, *(arguments.model or [])]
    log.set_up(
        as_json=arguments.log_format == "json", verbose=arguments.verbose, quiet=arguments.quiet
    )
    if arguments.cluster:
        stopped_by = serve_in_replicas(arguments, settings, listening(settings), tell_where)
        return INTERRUPTED if stopped_by == signal.SIGINT else 0

    def models() -> dict[str, ChatGLM]:
        found = load_models(arguments, settings)
        tell_room(found)
        tell_where(", ".join(found), settings)
        return found

    server = make_server(create_app(models, settings, report=log.report), settings)
    server.run(listening(settings))
    return INTERRUPTED if server.stopped_by == signal.SIGINT else 0


def tell_room(models: Mapping[str, ChatGLM]) -> None:
    """Say how large the caches may become: memory that is taken as it is needed."""
    for engine in {id(model.engine): model.engine for model in models.values()}.values():
        tokens = engine.scheduler.num_blocks * engine.scheduler.block_size
        size = f"{engine.max_cache_bytes / 1e6:,.0f} MB"
        note(
            say(
                f"keys and values of up to {tokens:,} tokens are kept: {size} when all are in use",
                f"键值缓存最多 {tokens:,} 个词元，用满时占 {size}",
            )
        )


def tell_where(names: str, settings: Settings) -> None:
    """Say that the service is there, and where."""
    note(
        say(
            f"{names} at {settings.url} (page) and …/v1 (API); Ctrl-C stops",
            f"{names} 已就绪：{settings.url}（网页），…/v1（接口）；Ctrl-C 停止",
        )
    )


def listening(settings: Settings) -> list[socket.socket]:
    """The server's sockets; a sentence where the address cannot be had."""
    from chatglm.serve.http import listen

    try:
        return listen(settings)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); "
            "give another --port or --host",
            1,
        ) from error
