"""Builds the native kernels where a C++ compiler is present; without one the package works on
PyTorch's operators.
"""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "chatglm.quantization._native",
            sorted(glob("csrc/*.cpp")),
            depends=sorted(glob("csrc/*.h")),
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-pthread",
                # GCC's own headers of intrinsics trip over these.
                "-Wno-uninitialized",
                "-Wno-maybe-uninitialized",
                # Of vectors wider than a register: none crosses from one file to another.
                "-Wno-psabi",
            ],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ],
)
