"""A model's shape on a GPU: decoding, batches and prompts in each format, beside transformers.

    python -m benchmarks.gpu [--shape chatglm3-6b] [--kinds bf16 int8 int4 fp8] [--json FILE]

Weights are random: speed does not depend on their values. All ways run in one process, and every
figure is the median of several rounds. The first line is what copying memory reaches on this GPU,
bytes read and written; a way's share of it is the bytes of weights, keys and values that a token
of batch 1 reads. `--device cpu --shape nano` tries the benchmark itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from chatglm.checkpoint.fill import build, place
from chatglm.config import ModelConfig
from chatglm.evaluate.metrics import table
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.presets import PRESETS
from chatglm.prompt import Prompt
from chatglm.quantization.kinds import narrowed, schemes_of
from chatglm.quantization.scheme import KINDS

NANO = ModelConfig(
    num_layers=8,
    hidden_size=512,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    ffn_size=1408,
    vocab_size=8192,
    max_length=4096,
)
FORMATS = ("bf16", "int8", "int4", "fp8")


def random_model(config: ModelConfig, kind: str, device: torch.device) -> Transformer:
    """The network in bfloat16 with its linears in a format, made one by one."""
    model = build(config)
    torch.manual_seed(0)
    schemes = {} if kind == "bf16" else schemes_of(model, KINDS[kind])
    for name, scheme in schemes.items():
        module = model.get_submodule(name)
        shape = model.get_parameter(f"{name}.weight").shape
        weight = torch.randn(shape, dtype=torch.bfloat16, device=device) * 0.02
        replace_module(model, name, narrowed(module, weight, scheme))
    for name, parameter in list(model.named_parameters()):
        tensor = torch.randn(parameter.shape, dtype=torch.bfloat16, device=device) * 0.02
        place(model, name, tensor + 1 if "norm" in name else tensor)
    return model.requires_grad_(False).eval()


def finish(device: torch.device) -> float:
    """The time once all that was ordered is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def copy_speed(device: torch.device) -> float:
    """Bytes a second that copying reads and writes."""
    source = torch.ones(1 << (30 if device.type == "cuda" else 26), dtype=torch.uint8).to(device)
    target, times = torch.empty_like(source), []
    for _ in range(10):
        begin = finish(device)
        target.copy_(source)
        times.append(finish(device) - begin)
    return 2 * source.numel() / median(times)


def bytes_a_token(model: Transformer, length: int) -> int:
    """What one token of batch 1 reads: all weights but the words', and keys and values."""
    c = model.config
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    read = sum(
        t.nbytes for name, t in weights.items() if c.tied or not name.startswith("embedding.")
    )
    return read + 2 * 2 * c.num_layers * c.num_kv_heads * c.head_dim * length


class Ours:
    """The engine over a model."""

    def __init__(self, model: Transformer, batch: int, length: int) -> None:
        self.model, self.device = model, model.embedding.weight.device
        self.engine = Engine(
            model, max_num_seqs=batch, max_num_tokens=batch * (length + 16), prefix_cache=False
        )

    def run(self, batch: int, num_read: int, num_new: int) -> tuple[float, float]:
        """Seconds of reading `batch` prompts, and of decoding after the first token of each."""
        for seed in range(batch):
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(0, self.model.config.vocab_size, (num_read,), generator=generator)
            sampling = Sampling(temperature=0, max_new_tokens=num_new)
            self.engine.add(Prompt(tokens=tuple(ids.tolist())), sampling)
        begin = finish(self.device)
        replies = dict.fromkeys(self.engine.requests, 0)
        while not all(replies.values()):
            for output in self.engine.step():
                replies[output.id] += 1
        middle, before = finish(self.device), sum(replies.values())
        while self.engine.busy:
            self.engine.step()
        # Of the tokens that came while others still read, none is counted.
        share = (batch * num_new - before) / max(batch * (num_new - 1), 1)
        return middle - begin, (finish(self.device) - middle) / max(share, 1e-9)


class Theirs:
    """transformers' generate over its own model of the same shape."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        from transformers import GlmConfig, GlmForCausalLM

        shape = GlmConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_length,
            attention_bias=config.bias != "none",
            pad_token_id=0,
            eos_token_id=None,
        )
        with torch.device(device):
            self.model = GlmForCausalLM(shape).to(torch.bfloat16).eval()
        self.device, self.vocab_size = device, config.vocab_size

    @torch.inference_mode()
    def run(self, batch: int, num_read: int, num_new: int) -> tuple[float, float]:
        """As `Ours.run`: reading alone, and all of it less the reading."""
        ids = torch.randint(0, self.vocab_size, (batch, num_read), device=self.device)
        times = []
        for count in (1, num_new):
            begin = finish(self.device)
            self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                min_new_tokens=count, do_sample=False,
            )  # fmt: skip
            times.append(finish(self.device) - begin)
        return times[0], times[1] - times[0]


def rounds(
    run: Callable[[int, int, int], tuple[float, float]], batch: int, num_read: int, num_new: int
) -> tuple[float, float]:
    """Median seconds of reading and of decoding; the first round warms up."""
    found = [run(batch, num_read, num_new) for _ in range(4)][1:]
    return median(a for a, _ in found), median(b for _, b in found)


def measure(
    way: Ours | Theirs, batches: list[int], num_read: int, num_new: int
) -> dict[str, float]:
    """Tokens a second of each batch, and of reading one prompt."""
    row: dict[str, float] = {}
    for batch in batches:
        reading, decoding = rounds(way.run, batch, num_read, num_new)
        row[f"batch {batch}, tokens/s"] = batch * (num_new - 1) / decoding
        if batch == 1:
            row["prompt, tokens/s"] = num_read / reading
    return row


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="chatglm3-6b", choices=("nano", *PRESETS))
    parser.add_argument("--kinds", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here; benchmarks.gpu measures one", file=sys.stderr)
        return 1
    config = NANO if arguments.shape == "nano" else PRESETS[arguments.shape]
    length = arguments.prompt + arguments.new
    copied = copy_speed(device)
    rows: dict[str, dict[str, object]] = {}
    for kind in arguments.kinds:
        model = random_model(config, kind, device)
        way = Ours(model, max(arguments.batches), length)
        row = measure(way, arguments.batches, arguments.prompt, arguments.new)
        if 1 in arguments.batches:
            read = bytes_a_token(model, arguments.prompt + arguments.new // 2)
            row["share of copying, batch 1"] = row["batch 1, tokens/s"] * read / copied
        rows[kind] = dict(row)
        del model, way
    if not arguments.no_transformers:
        other = Theirs(config, device)
        rows["transformers, bf16"] = dict(
            measure(other, arguments.batches, arguments.prompt, arguments.new)
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    print(f"{name}: copying reaches {copied / 1e9:.0f} GB/s\n")
    print(table(rows, arguments.shape))
    if arguments.json:
        arguments.json.write_text(json.dumps({"copying": copied, "rows": rows}, indent=2), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
