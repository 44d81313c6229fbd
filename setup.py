"""Builds the native kernels where a C++ compiler is present; without one the package works on
PyTorch's operators.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "chatglm.quantization._native",
            ["csrc/linear.cpp", "csrc/attention.cpp", "csrc/pieces.cpp", "csrc/pool.cpp"],
            depends=["csrc/pool.h", "csrc/vector.h"],
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
