"""Tokens a second of several requests together, beside llama-batched-bench.

    python -m benchmarks.batched --shape 200M --peer-bin llama.cpp/build/bin [--batch 8 16 32]

PEER_BIN holds llama-batched-bench. Whole processes in turn, round after round, on random weights;
the table has the medians: prompts and replies together, and replies alone. Every request has a
prompt of its own.
"""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks.peers import (
    Numbers,
    Peers,
    Side,
    add_flags,
    draw,
    in_turn,
    keep,
    machine,
    medians,
    names_of,
    opened,
    show,
    title_of,
)


def ours(peers: Peers, format: str, arguments: argparse.Namespace) -> Numbers:
    """Our engine's figures in the names that llama.cpp's have."""
    sizes = map(str, arguments.batch)
    counts = ("--batch-prompt", str(arguments.prompt), "--batch-new", str(arguments.new))
    found = peers.ours(format, "--repeat", "1", "--batch", *sizes, *counts)
    return {
        f"{key} {size}": speed
        for size in arguments.batch
        for key, speed in found[f"batch {size}"].items()  # type: ignore[attr-defined]
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=32)
    arguments = parser.parse_args()
    prompt, new = arguments.prompt, arguments.new
    with opened(arguments) as peers:
        sides: dict[str, Side] = {}
        for format in arguments.format:
            own, peer = names_of(format)
            sides[own] = partial(ours, peers, format, arguments)
            sides[peer] = partial(peers.llama_batched, format, arguments.batch, prompt, new)
        found = in_turn(sides, arguments.rounds)
        title = f"Prompts of {prompt} and replies of {new}, tokens/s: {machine(peers)}"
    middle = medians(found)
    rows: list[dict[str, object]] = []
    bars: dict[str, dict[str, float]] = {}
    for format in arguments.format:
        name, other = names_of(format)
        for size in arguments.batch:
            row: dict[str, object] = {"format": title_of(format), "requests": size}
            for key in ("total", "decode"):
                ours_at, peer_at = middle[name][f"{key} {size}"], middle[other][f"{key} {size}"]
                what = "all" if key == "total" else "replies"
                row |= {
                    f"{what}: ours": ours_at,
                    f"{what}: llama.cpp": peer_at,
                    f"{what}: ratio": ours_at / peer_at,
                }
                if key == "total":
                    bars[f"{format} × {size}"] = {"ours": ours_at, "llama.cpp": peer_at}
            rows.append(row)
    show(title, rows)
    keep(arguments.json, title, rows, found)
    draw(arguments.plot, f"Requests together, {arguments.shape}, {arguments.threads} threads", bars)


if __name__ == "__main__":
    main()
