"""Tokens a second of one reply, beside llama.cpp and transformers on the same shape and threads.

    python -m benchmarks.decode --shape 200M --peer-bin llama.cpp/build/bin [--busy 1]

PEER_BIN holds llama-bench. Whole processes in turn, round after round, on random weights; the
table has the medians. Ours is the engine with sampling, after the first token; llama.cpp's is
llama-bench's `tg`, transformers' is `generate`. The share of the bandwidth is bytes of weights read
a second ÷ what a plain operator reads, measured in the same process. With --busy the same again
while so many other processes count without end.
"""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks.peers import (
    Peers,
    Side,
    add_flags,
    busy_processes,
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


def sides_of(
    peers: Peers, formats: list[str], new: int, *, with_transformers: bool
) -> dict[str, Side]:
    """A side for each format of ours and of llama.cpp, and transformers."""
    sides: dict[str, Side] = {}
    for format in formats:
        own, peer = names_of(format)
        sides[own] = partial(peers.ours, format, "--new", str(new))
        sides[peer] = partial(peers.llama_bench, format, new=new)
    if with_transformers:
        sides["transformers"] = partial(peers.transformers, "--new", str(new))
    return sides


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--new", type=int, default=64, help="tokens of a reply")
    parser.add_argument("--busy", type=int, default=0, help="other processes, in a second run")
    parser.add_argument("--no-transformers", action="store_true")
    arguments = parser.parse_args()
    formats = arguments.format
    with opened(arguments) as peers:
        sides = sides_of(
            peers, formats, arguments.new, with_transformers=not arguments.no_transformers
        )
        found = in_turn(sides, arguments.rounds)
        loaded = {}
        if arguments.busy:
            quantized = {name: side for name, side in sides.items() if name != "transformers"}
            with busy_processes(arguments.busy):
                loaded = in_turn(quantized, arguments.rounds)
        title = f"One reply, tokens/s: {machine(peers)}"
    idle, slow = medians(found), medians(loaded)
    theirs = idle.get("transformers", {}).get("decode")
    rows: list[dict[str, object]] = []
    for format in formats:
        name, other = names_of(format)
        own, peer = idle[name], idle[other]["decode"]
        row: dict[str, object] = {
            "format": title_of(format),
            "ours": own["decode"],
            "llama.cpp": peer,
            "ratio": own["decode"] / peer,
            "transformers bf16": theirs,
            "of the bandwidth": own["bytes_read"] * own["decode"] / own["bandwidth"],
            "bandwidth, GB/s": own["bandwidth"] / 1e9,
        }
        if slow:
            row["ours beside other work"] = slow[name]["decode"] / own["decode"]
            row["llama.cpp beside other work"] = slow[other]["decode"] / peer
        rows.append(row)
    show(title, rows)
    keep(arguments.json, title, rows, {"idle": found, "beside other work": loaded})
    bars = {
        str(row["format"]): {
            name: float(str(row[name]))
            for name in ("ours", "llama.cpp", "transformers bf16")
            if row[name] is not None
        }
        for row in rows
    }
    draw(arguments.plot, f"One reply, {arguments.shape}, {arguments.threads} threads", bars)


if __name__ == "__main__":
    main()
