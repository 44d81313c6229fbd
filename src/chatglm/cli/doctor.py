"""`chatglm doctor`: this machine and this installation."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from chatglm import __version__
from chatglm.cli.console import paint, say

PACKAGES = (
    *("torch", "numpy", "safetensors", "tokenizers", "sentencepiece", "tiktoken"),
    *("huggingface_hub", "openai", "prompt_toolkit", "matplotlib", "triton"),
)
EMBEDDED = Path(__file__).parents[1] / "assets" / "nano"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor", help=say("versions, processor, memory, models", "检查版本、处理器、内存和模型")
    )
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1 where something needed is missing."""
    report = examine()
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        for name, value in report.items():
            print(f"{paint(name + ':', 'bold', sys.stdout):<24} {value}")
    return 0 if report["embedded model"] != "missing" else 1


def examine() -> dict[str, str]:
    """What there is, by name."""
    import torch

    devices = ["cpu"]
    devices += [
        f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "chatglm": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": ", ".join(f"{name} {installed(name)}" for name in PACKAGES),
        "processor": f"{os.cpu_count()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "torch threads": str(torch.get_num_threads()),
        "memory": memory(),
        "devices": ", ".join(devices),
        "gpu": gpu(),
        "embedded model": embedded(),
        "model": os.environ.get("CHATGLM_MODEL") or "embedded",
        "network": "off" if os.environ.get("HF_HUB_OFFLINE") == "1" else "as needed",
    }


def installed(package: str) -> str:
    """The version of a package, or `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def gpu() -> str:
    """What of the package's means for GPUs the first one has."""
    import torch

    from chatglm.quantization import cuda, float8

    if not torch.cuda.is_available():
        return "none, models run on the processor"
    device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        has_kernels = cuda.is_usable(device)
    kernels = "Triton kernels, CUDA graphs" if has_kernels else "PyTorch's operators only"
    reasons = [f" ({warning.message})" for warning in told[-1:]]
    fp8 = "fp8 products" if float8.can_scale(device) else "no fp8 products"
    return f"compute capability {major}.{minor}, {kernels}{''.join(reasons)}, {fp8}"


def memory() -> str:
    """Physical memory where the system tells it."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{size / 2**30:.1f} GiB"


def embedded() -> str:
    """Where the embedded model lies and its size."""
    weights = sorted(EMBEDDED.glob("*.safetensors"))
    if not weights or not (EMBEDDED / "config.json").is_file():
        return "missing"
    return f"{EMBEDDED}, {sum(w.stat().st_size for w in weights) / 2**20:.1f} MiB"
