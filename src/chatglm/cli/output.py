"""How a reply reaches standard output: in pieces, whole, or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from chatglm.cli.console import note

if TYPE_CHECKING:
    from chatglm.generation.reply import ReplyStream


def write_stream(reply: ReplyStream, arguments: argparse.Namespace) -> str:
    """Print the reply as the flags ask for; its text."""
    start = time.perf_counter()
    first = None
    pieces: list[str] = []
    shows_pieces = arguments.stream and not arguments.json
    try:
        for piece in reply:
            first = first or time.perf_counter() - start
            pieces.append(piece)
            if shows_pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
    except KeyboardInterrupt:
        if shows_pieces and sys.stdout.isatty():
            print()
        raise
    text = "".join(pieces)
    if arguments.json:
        print(json.dumps(record(reply, text), ensure_ascii=False))
    elif shows_pieces:
        print()
    else:
        print(text)
    if arguments.verbose:
        note(speed(reply, first or 0.0, time.perf_counter() - start))
    return text


def record(reply: ReplyStream, text: str) -> dict[str, object]:
    """The reply as one JSON object, in OpenAI's words."""
    return {
        "text": text,
        "finish_reason": reply.finish,
        "usage": {"prompt_tokens": reply.num_prompt, "completion_tokens": reply.num_new},
    }


def speed(reply: ReplyStream, first: float, total: float) -> str:
    """`12 + 80 tokens, first after 0.05 s, 95.1 tokens/s`."""
    rate = max(reply.num_new - 1, 0) / max(total - first, 1e-9)
    return (
        f"{reply.num_prompt} + {reply.num_new} tokens, first after {first:.2f} s, "
        f"{rate:.1f} tokens/s"
    )
