"""Damaged and hostile GGUF files: one sentence, and no memory for what is not there."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from chatglm.checkpoint import export_gguf, load
from chatglm.checkpoint.gguf.header import read_header
from chatglm.errors import CheckpointError

pytest.importorskip("gguf")


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def head(tensors: int, keys: int, *, magic: bytes = b"GGUF", version: int = 3) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, keys)


def entry(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sides = b"".join(struct.pack("<Q", side) for side in shape)
    return string(name) + struct.pack("<I", len(shape)) + sides + struct.pack("<IQ", kind, offset)


ARCHITECTURE = string(b"general.architecture") + struct.pack("<I", 8) + string(b"chatglm")
HUGE = 2**63 + 5
HOSTILE: dict[str, bytes] = {
    "no bytes": b"",
    "half a magic": b"GG",
    "another magic": b"GGML" + bytes(60),
    "a zip": b"PK\x03\x04" + bytes(60),
    "safetensors": struct.pack("<Q", 40) + b'{"a":{"dtype":"F32","shape":[1]}}' + bytes(20),
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "magic alone": b"GGUF",
    "no version": b"GGUF\x03\x00",
    "version 1": head(0, 0, version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "no counts": head(0, 0)[:12],
    "huge tensors": head(HUGE, 0) + bytes(200),
    "many tensors": head(2**20, 0) + bytes(200),
    "huge keys": head(0, HUGE) + bytes(200),
    "a key's length": head(0, 1) + struct.pack("<Q", HUGE) + bytes(200),
    "a key beyond": head(0, 1) + struct.pack("<Q", 500) + bytes(200),
    "a key not UTF-8": head(0, 1) + string(b"\xff\xfe") + struct.pack("<II", 4, 1),
    "an unknown value": head(0, 1) + string(b"a") + struct.pack("<I", 77) + bytes(50),
    "a value cut off": head(0, 1) + string(b"a") + struct.pack("<I", 10) + bytes(3),
    "a string's length": head(0, 1) + string(b"a") + struct.pack("<IQ", 8, HUGE) + bytes(50),
    "an array's length": head(0, 1) + string(b"a") + struct.pack("<IIQ", 9, 4, HUGE) + bytes(50),
    "strings' count": head(0, 1) + string(b"a") + struct.pack("<IIQ", 9, 8, 2**40) + bytes(50),
    "arrays in arrays": head(0, 1) + string(b"a") + struct.pack("<IIQ", 9, 9, 2) + bytes(50),
    "one key twice": head(0, 2) + 2 * ARCHITECTURE,
    "no dimensions": head(1, 1) + ARCHITECTURE + entry(b"t", ()) + bytes(64),
    "many dimensions": head(1, 1) + ARCHITECTURE + entry(b"t", (1,) * 9) + bytes(64),
    "2^32 dimensions": head(1, 1) + ARCHITECTURE + string(b"t") + b"\xff" * 4 + bytes(64),
    "a side of zero": head(1, 1) + ARCHITECTURE + entry(b"t", (0, 4)) + bytes(64),
    "a huge side": head(1, 1) + ARCHITECTURE + entry(b"t", (HUGE,)) + bytes(64),
    "an overflowing shape": head(1, 1) + ARCHITECTURE + entry(b"t", (2**33, 2**33)) + bytes(64),
    "an unknown type": head(1, 1) + ARCHITECTURE + entry(b"t", (4,), kind=999) + bytes(64),
    "half a block": head(1, 1) + ARCHITECTURE + entry(b"t", (33,), kind=8) + bytes(64),
    "a huge offset": head(1, 1) + ARCHITECTURE + entry(b"t", (4,), offset=HUGE) + bytes(64),
    "an odd offset": head(1, 1) + ARCHITECTURE + entry(b"t", (4,), offset=3) + bytes(64),
    "one tensor twice": head(2, 1) + ARCHITECTURE + 2 * entry(b"t", (4,)) + bytes(128),
    "one over another": head(2, 1) + ARCHITECTURE + entry(b"a", (16,))
    + entry(b"b", (4,), offset=32) + bytes(256),
    "alignment 0": head(1, 2) + ARCHITECTURE + string(b"general.alignment")
    + struct.pack("<II", 4, 0) + entry(b"t", (4,)) + bytes(64),
    "alignment 2^32": head(1, 2) + ARCHITECTURE + string(b"general.alignment")
    + struct.pack("<II", 4, 2**32 - 1) + entry(b"t", (4,)) + bytes(64),
    "no keys at all": head(1, 0) + entry(b"t", (4,)) + bytes(64),
    "no tensors": head(0, 1) + ARCHITECTURE,
    "llama": head(0, 1) + ARCHITECTURE.replace(string(b"chatglm"), string(b"llama!!")),
}  # fmt: skip


@pytest.fixture(scope="module")
def file(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_gguf(load(toy), tmp_path_factory.mktemp("gguf") / "toy.gguf", kind="q8_0")


def assert_one_sentence(path: Path, bound: int = 4_000_000) -> None:
    """Opening fails with a sentence that names the file, and asks for little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < bound


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[name])
    assert_one_sentence(path)


def test_a_file_that_is_cut_off_anywhere_is_one_sentence(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    path = tmp_path / "cut.gguf"
    chance = random.Random(0)
    for size in [
        *range(1, 40, 3),
        *(chance.randrange(len(whole)) for _ in range(60)),
        len(whole) - 1,
    ]:
        path.write_bytes(whole[:size])
        assert_one_sentence(path)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "no layers": lambda data: set_number(data, b"chatglm.block_count", 0),
    "many layers": lambda data: set_number(data, b"chatglm.block_count", 2**31),
    "more layers": lambda data: set_number(data, b"chatglm.block_count", 3),
    "huge width": lambda data: set_number(data, b"chatglm.embedding_length", 2**31 - 1),
    "another width": lambda data: set_number(data, b"chatglm.embedding_length", 64),
    "no heads": lambda data: set_number(data, b"chatglm.attention.head_count", 0),
    "odd heads": lambda data: set_number(data, b"chatglm.attention.head_count_kv", 3),
    "huge vocabulary": lambda data: set_number(data, b"chatglm.vocab_size", 2**31 - 1),
    "odd rotation": lambda data: set_number(data, b"chatglm.rope.dimension_count", 3),
    "another name": lambda data: data.replace(b"blk.1.attn_norm", b"blk.1.attn_gorm"),
    "another tokenizer": lambda data: data.replace(string(b"gpt2"), string(b"gpt3")),
    "another split": lambda data: data.replace(string(b"gpt-2"), string(b"gpt-3")),
}


def set_number(data: bytes, key: bytes, value: int) -> bytes:
    at = data.index(string(key)) + 8 + len(key) + 4
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


@pytest.mark.parametrize("name", CHANGES)
def test_keys_that_do_not_fit_are_one_sentence(file: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    changed = CHANGES[name](file.read_bytes())
    assert changed != file.read_bytes()
    path.write_bytes(changed)
    assert_one_sentence(path, bound=20_000_000)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_of_the_header_are_read_or_one_sentence(
    file: Path, tmp_path: Path, seed: int
) -> None:
    whole = bytearray(file.read_bytes())
    end = min(stored.start for stored in read_header(file).tensors.values())
    chance = random.Random(seed)
    path = tmp_path / "flipped.gguf"
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 8))):
            data[chance.randrange(end)] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        told = ""
        try:
            load(path)
        except CheckpointError as error:
            told = str(error)
        assert "\n" not in told


COMMAND = "import sys; from chatglm.cli import main; sys.exit(main())"


@pytest.mark.parametrize("name", ["another magic", "huge tensors", "llama", "no bytes"])
def test_the_command_line_says_one_sentence_and_exits_3(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[name])
    for command in (["info", str(path)], ["generate", "你好", "--model", str(path)]):
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        assert done.stderr.count("\n") == 1
        assert str(path) in done.stderr
        assert done.stdout == ""
