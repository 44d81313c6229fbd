"""`chatglm support demo`: a shop's and a bank's base, in the browser or here."""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
import webbrowser
from importlib.util import find_spec

from chatglm.cli.console import note, say

PATIENCE = 60.0


def run_demo(arguments: argparse.Namespace) -> int:
    """Make the bases and open them: the page of `chatglm serve` where it can run, else a talk."""
    from chatglm.apps.support.demo import prepare

    bases = prepare()
    note(
        say(
            f"bases {', '.join(bases)} are ready (also: chatglm support --kb {bases[0]})",
            f"示例知识库 {'、'.join(bases)} 已就绪（也可用 chatglm support --kb {bases[0]}）",
        )
    )
    if arguments.terminal or arguments.words[1:] or not has_page():
        return in_terminal(arguments, bases)
    return in_browser(arguments)


def has_page() -> bool:
    """Whether the server is installed and knows customer service."""
    if any(find_spec(package) is None for package in ("fastapi", "uvicorn", "pydantic")):
        return False
    from chatglm.serve import applications

    routes = getattr(applications, "router", None)
    return any("/support" in getattr(route, "path", "") for route in getattr(routes, "routes", ()))


def in_terminal(arguments: argparse.Namespace, bases: tuple[str, ...]) -> int:
    """A talk with the first base, or with the one that --kb names."""
    from chatglm.cli.support import make_service, serve_words

    arguments.words = arguments.words[1:]
    if not arguments.words and not sys.stdin.isatty():
        note(
            say(
                f'ask: chatglm support --kb {bases[0]} "怎么退货？"',
                f'提问：chatglm support --kb {bases[0]} "怎么退货？"',
            )
        )
        return 0
    with make_service(arguments, arguments.kb or bases[0]) as service:
        return serve_words(service, arguments)


def in_browser(arguments: argparse.Namespace) -> int:
    """Serve on this machine alone and open the page once it answers."""
    from chatglm.cli import make_parser

    port = arguments.port or free_port()
    flags = ["serve", "--port", str(port)]
    if arguments.model:
        flags += ["--model", arguments.model]
    threading.Thread(target=open_page, args=(port,), daemon=True).start()
    served = make_parser().parse_args(flags)
    return int(served.run(served) or 0)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def open_page(port: int) -> None:
    """Open the browser as soon as the server takes connections."""
    since = time.monotonic()
    while time.monotonic() - since < PATIENCE:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
            continue
        webbrowser.open(f"http://127.0.0.1:{port}/#/support")
        return
