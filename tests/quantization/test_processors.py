"""The kernels of processors that this machine emulates."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.whole
def test_an_arm_processor_computes_what_plain_code_does(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    sources = [*(ROOT / "csrc").glob("linear*.cpp"), ROOT / "csrc" / "pool.cpp"]
    program = tmp_path / "levels"
    subprocess.run(
        [compiler, "-O2", "-std=c++17", "-Wno-psabi", "-static", "-pthread", *sources,
         Path(__file__).with_name("levels.cpp"), "-o", program],
        check=True,
    )  # fmt: skip
    ran = subprocess.run([emulator, "-cpu", "max", program], capture_output=True, text=True)
    assert ran.stdout.endswith("levels 0 to 1: agree\n"), ran.stdout
