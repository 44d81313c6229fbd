"""Tokens a second of a prompt, beside llama.cpp's formats and transformers.

    python -m benchmarks.prefill --shape 200M --peer-bin llama.cpp/build/bin [--prompt 512]

Whole processes in turn, round after round, on random weights; the table has the medians. Ours is
the engine until the first token has been chosen, llama.cpp's is llama-bench's `pp`, transformers'
one forward.
"""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks.peers import (
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--prompt", type=int, default=512)
    arguments = parser.parse_args()
    prompt, formats = arguments.prompt, arguments.format
    repeat = "1" if arguments.shape == "6B" else "3"
    with opened(arguments) as peers:
        sides: dict[str, Side] = {}
        for format in formats:
            flags = ("--prompt", str(prompt), "--repeat", repeat)
            own, peer = names_of(format)
            sides[own] = partial(peers.ours, format, *flags)
            sides[peer] = partial(peers.llama_bench, format, prompt=prompt, repeat=int(repeat))
        sides["transformers"] = partial(peers.transformers, *flags)
        found = in_turn(sides, arguments.rounds)
        title = f"A prompt of {prompt}, tokens/s: {machine(peers)}"
    speeds = {side: figures["prefill"] for side, figures in medians(found).items()}
    best = max(speeds[names_of(format)[1]] for format in formats)
    rows: list[dict[str, object]] = [
        {
            "format": title_of(format),
            "ours": speeds[names_of(format)[0]],
            "llama.cpp": speeds[names_of(format)[1]],
            "transformers bf16": speeds["transformers"],
            "to llama.cpp's best": speeds[names_of(format)[0]] / best,
            "to transformers": speeds[names_of(format)[0]] / speeds["transformers"],
        }
        for format in formats
    ]
    show(title, rows)
    keep(arguments.json, title, rows, found)
    names = ("ours", "llama.cpp", "transformers bf16")
    bars = {str(row["format"]): {name: float(str(row[name])) for name in names} for row in rows}
    draw(
        arguments.plot,
        f"A prompt of {prompt}, {arguments.shape}, {arguments.threads} threads",
        bars,
    )


if __name__ == "__main__":
    main()
