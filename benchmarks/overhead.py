"""What a token of the embedded model costs beside arithmetic: operators and processor time.

    python -m benchmarks.overhead [MODEL] [--tokens 100]

Three ways in turn in one run: the model as it is with PyTorch's attention, with native linears and
attention, and as the engine runs it (one native call for the whole network). Processor time, not
wall time, and the least of five rounds, so that a busy machine counts less; for one request and
for several.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.profiler import ProfilerActivity, profile

from chatglm import ChatGLM
from chatglm.generation.engine import Engine
from chatglm.generation.packed import pack
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt

BATCHES = (1, 8)
WAYS = ("PyTorch", "native parts", "one call")
PROMPT = Prompt(tokens=tuple(range(100, 200)))


def engine_of(model: ChatGLM, way: str) -> Engine:
    """An engine that runs the model in one of the ways."""
    engine = Engine(model.transformer, stop_ids=frozenset(), prefix_cache=False)
    engine.refresh()
    runner = engine.runner
    if way != "one call":
        runner.network = None
    if way == "native parts":
        runner.decoder = pack(runner.model)
    elif way == "PyTorch":
        runner.is_native = False
    return engine


def seconds(engine: Engine, tokens: int, batch: int) -> float:
    """Processor time per token of greedy replies, without their first tokens."""
    for _ in range(batch):
        engine.add(PROMPT, Sampling(temperature=0, max_new_tokens=tokens + 1))
    engine.step()
    start = time.process_time()
    while engine.busy:
        engine.step()
    return (time.process_time() - start) / tokens / batch


def operators(engine: Engine) -> list[tuple[str, int]]:
    """Operators that one token dispatches, the most frequent first."""
    engine.add(PROMPT, Sampling(temperature=0, max_new_tokens=3))
    engine.step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        engine.step()
    while engine.busy:
        engine.step()
    counts = [(event.key, event.count) for event in found.key_averages()]
    return sorted(counts, key=lambda pair: pair[1], reverse=True)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokens", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ChatGLM.from_pretrained(args.model)
    assert isinstance(model, ChatGLM)
    ways = {way: engine_of(model, way) for way in WAYS}
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(5):
        for way, engine in ways.items():
            for batch in BATCHES:
                found = seconds(engine, args.tokens // batch + 1, batch)
                times.setdefault((way, batch), []).append(found)
    titles = " | ".join(f"ms a token, {batch} at once | gain" for batch in BATCHES)
    print(f"| way | operators a token | {titles} | most frequent |")
    print("|---" * (3 + 2 * len(BATCHES)) + "|")
    for way, engine in ways.items():
        counts = operators(engine)
        cells = []
        for batch in BATCHES:
            best, plain = min(times[way, batch]), min(times["PyTorch", batch])
            cells.append(f"{1000 * best:.2f} | {plain / best:.2f}")
        names = ", ".join(f"{name} {count}" for name, count in counts[:4])
        print(f"| {way} | {sum(n for _, n in counts)} | {' | '.join(cells)} | {names} |")


if __name__ == "__main__":
    main()
