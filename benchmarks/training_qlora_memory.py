"""One step of QLoRA on a model of ChatGLM3-6B's shape: its peak memory and its seconds.

    python -m benchmarks.training_qlora_memory [--layers 28] [--length 256] [--bits 4]

The weights are random and made in their packed form, layer by layer; what is measured does not
depend on their values.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace

import torch
from torch import nn

from chatglm.checkpoint.fill import build, place
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.parallel.recompute import recompute
from chatglm.presets import PRESETS
from chatglm.quantization.embedding import QuantizedEmbedding
from chatglm.quantization.kinds import schemes_of
from chatglm.quantization.linear import Packed, QuantizedLinear
from chatglm.quantization.scheme import KINDS, Scheme
from chatglm.quantization.tiles import BLOCK, TILE, up_to
from chatglm.training.batch import Batch
from chatglm.training.config import LoopConfig, OptimConfig
from chatglm.training.objectives import chunked
from chatglm.training.trainer import Trainer


def random_part(module: nn.Module, scheme: Scheme) -> QuantizedLinear:
    """A linear or table of random packed rows."""
    rows, columns = module.get_parameter("weight").shape
    bits, group = scheme.bits, scheme.group
    padded, tiles = up_to(columns, BLOCK), up_to(rows, TILE) // TILE
    weight = torch.randint(0, 256, (tiles, padded * TILE * bits // 8), dtype=torch.uint8)
    groups = (tiles, padded // group, TILE)
    scale = torch.full(groups, 2e-4 if bits == 8 else 3e-3, dtype=torch.float16)
    packed = Packed(weight, scale)
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(packed, rows, columns, bits, group, dtype=torch.bfloat16)
    bias = module.bias is not None
    return QuantizedLinear(packed, rows, columns, bits, group, bias=bias)


def random_model(config: ModelConfig, kind: str) -> Transformer:
    """The network with quantized linears and everything else in bfloat16."""
    model = build(config)
    for name, scheme in schemes_of(model, KINDS[kind]).items():
        replace_module(model, name, random_part(model.get_submodule(name), scheme))
    for name, parameter in list(model.named_parameters()):
        fill = torch.ones if "norm" in name else torch.zeros
        place(model, name, fill(parameter.shape, dtype=torch.bfloat16))
    return model.requires_grad_(False)


class One:
    """One batch of chance tokens, again and again."""

    def __init__(self, vocab_size: int, length: int) -> None:
        tokens = torch.randint(0, vocab_size, (1, length))
        self.batch = Batch(
            tokens=tokens,
            labels=tokens.roll(-1, 1),
            positions=torch.arange(length)[None, None],
            documents=torch.zeros_like(tokens),
        )

    def next_batch(self, rows: int) -> Batch:
        """The batch."""
        return self.batch

    def state(self) -> dict[str, object]:
        """Nothing to keep."""
        return {}

    def load_state(self, state: dict[str, object]) -> None:
        """Nothing to take up."""


def main() -> None:
    """Build, adapt, take two steps, and print what they took."""
    from chatglm.adapters.lora import LoraLinear, Update

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--kind", choices=("int4", "int8"), default="int4")
    args = parser.parse_args()
    torch.manual_seed(0)
    config = replace(PRESETS["chatglm3-6b"], num_layers=args.layers)
    model = random_model(config, args.kind)
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear) and name.startswith("layers."):
            a = torch.randn(args.rank, module.columns) / module.columns**0.5
            update = Update(start=0, a=a, b=torch.zeros(module.rows, args.rank), scale=2.0)
            replace_module(model, name, LoraLinear(module, [update]))
    recompute(model)
    loop = LoopConfig(
        output="/nonexistent", optim=OptimConfig(kind="adamw", lr=1e-4), batch_rows=1, micro_rows=1,
        precision="bfloat16",
    )  # fmt: skip
    trainer = Trainer(loop, model, One(config.vocab_size, args.length), chunked(128))
    for _ in range(args.steps):
        started = time.perf_counter()
        loss, *_ = trainer.train_step()
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{args.kind}, {args.layers} layers, {args.length} tokens: loss {loss:.2f}, "
        f"{seconds:.1f} s a step, peak {peak:.2f} GB"
    )


if __name__ == "__main__":
    main()
