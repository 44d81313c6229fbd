"""What `--dry-run` foretells beside what the run then takes: memory and time of every method.

    python -m benchmarks.forecast --data ../shared/data [--methods lora qlora ptuning full …]

The embedded model learns questions of a knowledge base with the recipes' settings. The forecast is
made in one process and the run in another; memory is the process's peak, time that of the steps,
held-out losses and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS: dict[str, dict[str, object]] = {
    "lora": {"method": "lora"},
    "qlora": {"method": "qlora"},
    "ptuning": {"method": "ptuning"},
    "full": {"method": "full"},
    "full-8bit": {"method": "full", "optimizer": "adamw8bit"},
    "dpo": {"method": "lora", "objective": "dpo"},
}


def write_data(folder: Path, output: Path, count: int) -> None:
    """Questions with their answers, and with another's answer as the rejected one."""
    with (folder / "faq/ecommerce.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    asked = [(question, row) for row in rows for question in row["similar_questions"]][:count]
    with (
        (output / "sft.jsonl").open("w", encoding="utf-8") as plain,
        (output / "dpo.jsonl").open("w", encoding="utf-8") as pairs,
    ):
        for number, (question, row) in enumerate(asked):
            other = rows[(rows.index(row) + 1 + number) % len(rows)]["answer"]
            one = {"instruction": question, "output": row["answer"]}
            two = {"prompt": question, "chosen": row["answer"], "rejected": other}
            plain.write(json.dumps(one, ensure_ascii=False) + "\n")
            pairs.write(json.dumps(two, ensure_ascii=False) + "\n")


def measure(name: str, folder: Path, steps: int, *, runs: bool) -> dict[str, float]:
    """Bytes and seconds: foretold, or taken by the run."""
    from chatglm.training.finetune import prepare_run
    from chatglm.training.foresight import peak_bytes
    from chatglm.training.tuning import TuneConfig

    data = folder / ("dpo.jsonl" if name == "dpo" else "sft.jsonl")
    with tempfile.TemporaryDirectory(dir=folder) as output:
        config = TuneConfig(
            output_dir=output, data=(str(data),), max_steps=steps, save_steps=steps // 2,
            eval_steps=steps // 2, **METHODS[name],  # type: ignore[arg-type]
        )  # fmt: skip
        run = prepare_run(config)
        if not runs:
            found = run.foresee()
            return {"bytes": found.peak_bytes, "seconds": found.seconds}
        started = time.perf_counter()
        run.trainer.run()
        return {"bytes": peak_bytes(), "seconds": time.perf_counter() - started}


def main() -> None:
    """Print forecast, measurement and their distance for every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--examples", type=int, default=160)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--part", choices=("forecast", "run"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        told = measure(args.methods[0], args.folder, args.steps, runs=args.part == "run")
        print(json.dumps(told))
        return
    print("| method | foretold GiB | taken | | foretold s | taken | |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        write_data(args.data, Path(folder), args.examples)
        for method in args.methods:
            found = {}
            for part in ("forecast", "run"):
                command = [sys.executable, "-m", "benchmarks.forecast", "--part", part]
                command += ["--methods", method, "--folder", folder, "--steps", str(args.steps)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[part] = json.loads(done.stdout.splitlines()[-1])
            cells = []
            for key, unit in (("bytes", 2**30), ("seconds", 1)):
                a, b = found["forecast"][key] / unit, found["run"][key] / unit
                cells.append(f"{a:.2f} | {b:.2f} | {a / b - 1:+.0%}")
            print(f"| {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
