"""The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

`python -m benchmarks.sanitizers [TESTS …]` builds `csrc/` with both and runs the kernels' tests on
that library; an error of theirs ends the run. Tensors are allocated by what AddressSanitizer
watches, so that one byte read past an array is found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/quantization/test_native.py",
    "tests/quantization/test_linear.py",
    "tests/quantization/test_official.py",
    "tests/generation/test_native.py",
    "tests/generation/test_network.py",
)
FLAGS = (
    "-O1", "-g", "-std=c++17", "-shared", "-fPIC", "-pthread", "-Wno-psabi",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    # The kernels read numbers where they lie; processors that they are made for allow it.
    "-fno-sanitize=alignment",
)  # fmt: skip


def build(target: Path) -> None:
    """The kernels with both sanitizers."""
    sources = sorted(map(str, (ROOT / "csrc").glob("*.cpp")))
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, *FLAGS, *sources, "-o", str(target)], check=True)


def runtime(name: str) -> str:
    """Path of a sanitizer's own library."""
    compiler = os.environ.get("CXX", "g++")
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def main() -> int:
    """Build, run, and give back what the tests did."""
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(folder) / "native.so"
        build(kernels)
        settings = {
            "CHATGLM_NATIVE": str(kernels),
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
            # Python keeps what it allocates to its end, and PyTorch maps what it reserves.
            "ASAN_OPTIONS": "detect_leaks=0:protect_shadow_gap=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        tests = sys.argv[1:] or TESTS
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}).returncode


if __name__ == "__main__":
    sys.exit(main())
