"""The speed of transformers' GLM on random weights in bfloat16, as one process.

    python -m benchmarks.transformers_speed --shape 200M --new 64 --prompt 512

Prints one JSON object as `benchmarks.own_speed` does. A reply is `generate`'s, timed token by token
by its own streamer; a prompt is one forward whose last scores alone are computed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from benchmarks.own_speed import add_flags, prompt_of
from benchmarks.shapes import random_transformers, shape_of


class Clock:
    """A streamer that notes when each token comes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        """A token, or the prompt, has come."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """The reply has ended."""


@torch.inference_mode()
def main() -> None:
    """Print the JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--new", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = shape_of(arguments.shape, arguments.layers)
    model = random_transformers(config)
    found = {}
    if arguments.new:
        rates = []
        for count in (2, *[arguments.new] * arguments.repeat):  # the first warms up
            clock = Clock()
            model.generate(
                torch.tensor([[1]]), min_new_tokens=count + 1, max_new_tokens=count + 1,
                do_sample=False, streamer=clock,
            )  # fmt: skip
            rates.append(count / (clock.times[-1] - clock.times[1]))
        found["decode"] = statistics.median(rates[1:])
    if arguments.prompt:
        ids = torch.tensor([prompt_of(arguments.prompt, 0, config.vocab_size).tokens])
        model(ids[:, :64], logits_to_keep=1)
        rates = []
        for _ in range(arguments.repeat):
            start = time.perf_counter()
            model(ids, use_cache=True, logits_to_keep=1)
            rates.append(arguments.prompt / (time.perf_counter() - start))
        found["prefill"] = statistics.median(rates)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
