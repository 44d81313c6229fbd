"""One command tunes the embedded model on this machine, and shows it before and after.

    python -m benchmarks.one_command --data ../shared/data [--bar 2]

`chatglm finetune FILE --output-dir DIRECTORY`, with nothing else said, learns a shop's questions
with their answers. Printed are its seconds from start to end, the held-out loss before and after,
how many questions it shows beside each other, and what PEFT makes of the adapter: the largest
difference of its scores from this package's. Exits with 1 where the loss does not get below the
bar or PEFT does not agree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from benchmarks.finetuning import write_task


def differs_from_peft(adapter: Path) -> float:
    """The largest difference of the scores of a text."""
    warnings.simplefilter("ignore")
    import peft
    import transformers

    from chatglm import checkpoint

    loaded = checkpoint.load(adapter=adapter, dtype="float32")
    base = transformers.AutoModelForCausalLM.from_pretrained(loaded.base, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, adapter).eval()
    assert loaded.tokenizer is not None
    tokens = torch.tensor([loaded.tokenizer.encode("请问什么时候发货？支持退货吗？")])
    with torch.inference_mode():
        ours = loaded.model.logits(loaded.model(tokens))
        return float((theirs(tokens).logits.float() - ours).abs().max())


def main() -> int:
    """Run the command and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--entries", type=int, default=42, help="of the knowledge base")
    parser.add_argument("--bar", type=float, default=2.0, help="the held-out loss must be below")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(args.data, folder, args.entries)
        output = folder / "tuned"
        command = [sys.executable, "-m", "chatglm", "finetune", str(folder / "train.jsonl")]
        started = time.perf_counter()
        subprocess.run([*command, "--output-dir", str(output)], check=True)
        seconds = time.perf_counter() - started
        rows = [json.loads(line) for line in (output / "metrics.jsonl").open(encoding="utf-8")]
        losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
        samples = json.loads((output / "samples.json").read_text("utf-8"))
        shown = sum(bool(sample["after"]) for sample in samples)
        differs = differs_from_peft(output)
    print("| seconds | held-out loss before | after | questions shown | PEFT differs by |")
    print("|---:|---:|---:|---:|---:|")
    print(f"| {seconds:.0f} | {losses[0]:.3f} | {min(losses):.3f} | {shown} | {differs:.1e} |")
    return 0 if min(losses) < args.bar and differs < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
