"""Damaged and hostile model directories: one sentence, quickly, and no code of theirs runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatglm.checkpoint import load

Damage = Callable[[Path], object]


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def cut(at: Callable[[int, int], int]) -> Damage:
    def damage(folder: Path) -> None:
        data = weights(folder).read_bytes()
        header = 8 + struct.unpack("<Q", data[:8])[0]
        weights(folder).write_bytes(data[: at(header, len(data))])

    return damage


def with_header(change: Callable[[dict[str, dict[str, object]]], object]) -> Damage:
    def damage(folder: Path) -> None:
        data = weights(folder).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        change(header)
        new = json.dumps(header).encode()
        weights(folder).write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])

    return damage


def with_config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        table = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(table | changes), encoding="utf-8")

    return damage


def with_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(weights(folder))
        change(tensors)
        save_file(tensors, weights(folder))

    return damage


def with_index(weight_map: object) -> Damage:
    def damage(folder: Path) -> None:
        weights(folder).rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def flip(at: int) -> Damage:
    """One byte of the header's length or text turned over."""

    def damage(folder: Path) -> None:
        data = bytearray(weights(folder).read_bytes())
        data[at] ^= 0xFF
        weights(folder).write_bytes(bytes(data))

    return damage


NORM, EMBED = "model.norm.weight", "model.embed_tokens.weight"
DAMAGES: dict[str, Damage] = {
    "no config": lambda f: (f / "config.json").unlink(),
    "empty config": lambda f: (f / "config.json").write_bytes(b""),
    "half a config": lambda f: (f / "config.json").write_bytes(b'{"model_type": "gl'),
    "config of bytes": lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
    "config a list": lambda f: (f / "config.json").write_bytes(b"[]"),
    "config nested": lambda f: (f / "config.json").write_bytes(b"[" * 100_000),
    "foreign model": with_config(model_type="llama"),
    "type a list": with_config(model_type=["glm"]),
    "negative layers": with_config(num_hidden_layers=-1),
    "endless layers": with_config(num_hidden_layers=2**30),
    "layers as text": with_config(num_hidden_layers="2"),
    "more layers": with_config(num_hidden_layers=3),
    "fewer layers": with_config(num_hidden_layers=1),
    "other width": with_config(hidden_size=64),
    "vast width": with_config(hidden_size=2**31 - 1),
    "vast width and words": with_config(
        hidden_size=2**31 - 1, intermediate_size=2**31 - 1, head_dim=2**30
    ),
    "heads that do not share": with_config(num_key_value_heads=3),
    "odd rotation": with_config(partial_rotary_factor=0.4),
    "rotation of nothing": with_config(partial_rotary_factor=float("nan")),
    "unknown scaling": with_config(rope_scaling={"rope_type": "magic"}),
    "scaling as text": with_config(rope_scaling={"rope_type": "yarn", "factor": "2"}),
    "end as text": with_config(eos_token_id="</s>"),
    "other activation": with_config(hidden_act="relu"),
    "a head that is not there": with_config(tie_word_embeddings=False),
    "biases that are not there": with_config(attention_bias=True),
    "no weights": lambda f: weights(f).unlink(),
    "empty weights": lambda f: weights(f).write_bytes(b""),
    "git-lfs pointer": lambda f: weights(f).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    ),
    "a web page": lambda f: weights(f).write_text("<!DOCTYPE html><html></html>"),
    "cut at 7": cut(lambda header, size: 7),
    "cut at 8": cut(lambda header, size: 8),
    "cut in the header": cut(lambda header, size: header // 2),
    "cut after the header": cut(lambda header, size: header),
    "cut in a tensor": cut(lambda header, size: (header + size) // 2),
    "cut at the end": cut(lambda header, size: size - 1),
    "header of 2^63": lambda f: weights(f).write_bytes(struct.pack("<Q", 2**63) + b"{}"),
    "shape of 2^63": with_header(lambda h: h[NORM].update(shape=[2**63])),
    "shape that overflows": with_header(lambda h: h[NORM].update(shape=[2**32, 2**32])),
    "negative shape": with_header(lambda h: h[NORM].update(shape=[-32])),
    "other dtype": with_header(lambda h: h[NORM].update(dtype="F64")),
    "unknown dtype": with_header(lambda h: h[NORM].update(dtype="X9")),
    "overlapping offsets": with_header(
        lambda h: h[NORM].update(data_offsets=h[EMBED]["data_offsets"])
    ),
    "offsets beyond the end": with_header(lambda h: h[NORM].update(data_offsets=[0, 2**40])),
    "a tensor less": with_tensors(lambda t: t.pop(NORM)),
    "a tensor more": with_tensors(lambda t: t.update(surprise=torch.ones(1))),
    "a tensor of another shape": with_tensors(lambda t: t.update({NORM: torch.ones(31)})),
    "a tensor without sides": with_tensors(lambda t: t.update({NORM: torch.ones(())})),
    "whole numbers for weights": with_tensors(
        lambda t: t.update({EMBED: torch.zeros_like(t[EMBED], dtype=torch.int32)})
    ),
    "index of nothing": with_index({}),
    "index a list": with_index([1]),
    "missing shard": with_index({NORM: "model-00002-of-00002.safetensors"}),
    "shard outside": with_index({NORM: "../model.safetensors"}),
    "shard at the root": with_index({NORM: "/etc/passwd"}),
    "index with a strange name": with_index({"surprise": "model-00001-of-00001.safetensors"}),
    **{f"cut at {at}": cut(lambda header, size, at=at: at) for at in (1, 9, 64)},
    **{f"byte {at} flipped": flip(at) for at in (*range(10), *range(16, 1000, 25))},
}


def test_there_are_a_hundred_damages() -> None:
    assert len(DAMAGES) >= 100


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_one_sentence(toy: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy, folder)
    DAMAGES[name](folder)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(folder)
    message = str(caught.value)
    assert len(message) > 20
    assert "\n" not in message


class Trap:
    """Pickled code that would leave a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("is_old", [False, True])
def test_code_in_a_pickle_never_runs(toy: Path, tmp_path: Path, is_old: bool) -> None:
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(toy, folder)
    tensors: dict[str, object] = dict(load_file(weights(folder)))
    weights(folder).unlink()
    torch.save(
        tensors | {"trap": Trap(canary)},
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=not is_old,
    )
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load(folder)
    assert not canary.exists()


def test_code_beside_the_weights_never_runs(toy: Path, tmp_path: Path) -> None:
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(toy, folder)
    (folder / "modeling_chatglm.py").write_text(f"import os; os.mkdir({str(canary)!r})")
    with_config(auto_map={"AutoModel": "modeling_chatglm.ChatGLM"})(folder)
    load(folder)
    assert not canary.exists()


def test_a_local_path_needs_no_network(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a local path touched the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(toy)


def test_an_unknown_name_without_network_names_the_cache(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not in the cache"):
        load("nobody/nothing-of-the-kind", offline=True)
    with pytest.raises(FileNotFoundError, match="is not a hub id"):
        load(tmp_path / "absent")
