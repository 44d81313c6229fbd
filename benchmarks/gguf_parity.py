"""Exported GGUF files in llama.cpp beside the model that they were exported from.

    python -m benchmarks.gguf_parity [--python PYTHON] [--oracles DIRECTORY]
        [--tokenizers DIRECTORY] [--output FILE.json]

PYTHON is an interpreter with llama-cpp-python, which need not be this one. For the embedded model,
for a random checkpoint of each architecture that llama.cpp knows, and for the oracle folders whose
shapes it takes: the largest difference of a logit, the Kullback-Leibler divergence of the next word
(mean over positions, in nats), whether the likeliest word is the same, whether greedy replies are,
and whether llama.cpp's tokenizer gives our ids. `of the file` compares with the file as it is read
back here, which leaves llama.cpp's own rounding of activations. Directories of published
tokenizers are compared on every string that stands in a cases.json below DIRECTORY.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from chatglm import ChatGLM
from chatglm.checkpoint import export_gguf
from chatglm.checkpoint.fill import build
from chatglm.checkpoint.gguf.export import add_key
from chatglm.checkpoint.gguf.metadata import is_square
from chatglm.checkpoint.gguf.words import keys_of_tokenizer
from chatglm.checkpoint.names import entry_of
from chatglm.checkpoint.parts import transformers_format
from chatglm.config import Experts, ModelConfig, RopeScaling
from chatglm.tokenizer import load_tokenizer

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
TEXTS = (
    "你好，请介绍一下北京。",
    "床前明月光，疑是地上霜。\n\n举头望明月，低头思故乡。",
    "In 2023, GLM-130B had 130 billion parameters; 那么 6B 呢？",
    "def f(x):\n    return x * 2  # 翻倍\n",
    "😀 naïve café 3.14159，「引号」《书名》……",
)
NUM_NEW = 24
# Runs in PYTHON: logits of the ids, a greedy continuation, ids of the texts.
CHILD = """
import json, sys
import numpy as np
import llama_cpp
from llama_cpp import llama_cpp as low

defaults = low.llama_model_default_params
def without_repacking():
    params = defaults()
    params.use_extra_bufts = False
    return params
low.llama_model_default_params = llama_cpp.llama_model_default_params = without_repacking
task = json.load(open(sys.argv[1]))
model = llama_cpp.Llama(
    task["file"], n_ctx=256, n_threads=1, logits_all=True, verbose=False,
    flash_attn=False, type_k=0, type_v=0,
)
model.eval(task["ids"])
np.save(task["logits"], model.scores[: len(task["ids"])])
reply = []
for _ in range(task["new"]):
    reply.append(int(model.scores[model.n_tokens - 1].argmax()))
    model.eval(reply[-1:])
words = [model.tokenize(text.encode(), add_bos=False, special=False) for text in task["texts"]]
print(json.dumps({"reply": reply, "words": words, "version": llama_cpp.__version__}))
"""


# Runs in PYTHON: ids of the texts by a file that has a vocabulary only.
TOKENIZE = """
import ctypes, json, sys
import llama_cpp

task = json.load(open(sys.argv[1]))
params = llama_cpp.llama_model_default_params()
params.vocab_only = True
model = llama_cpp.llama_model_load_from_file(task["file"].encode(), params)
vocab = llama_cpp.llama_model_get_vocab(model)
found = []
for text in task["texts"]:
    data = text.encode()
    room = (ctypes.c_int32 * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocab, data, len(data), room, len(room), False, False)
    found.append(room[:count])
json.dump(found, open(task["ids"], "w"))
"""


def random_models() -> dict[str, ModelConfig]:
    """A small config of each architecture, in the proportions of the published ones."""
    glm4 = ModelConfig(
        num_layers=4, hidden_size=256, num_heads=4, num_kv_heads=2, head_dim=64, ffn_size=672,
        vocab_size=512, max_length=1024, norm_eps=1.5625e-07, rope_theta=5_000_000.0,
    )  # fmt: skip
    experts = Experts(num_experts=8, num_active=3, num_shared=1, ffn_size=96, scale=1.5)
    yarn = RopeScaling(kind="yarn", factor=4, original_length=256)
    linear = RopeScaling(kind="linear", factor=4)
    sandwich = replace(glm4, residual="sandwich", rope_theta=10000.0)
    air = replace(glm4, rope_pairs="half", experts=experts)
    grouped = replace(experts, num_groups=4, num_active_groups=2)
    return {
        "ChatGLM3": replace(glm4, norm_eps=1e-5, rope_theta=10000.0),
        "ChatGLM2-32k": replace(glm4, rope_theta=10000.0, rope_scaling=linear),
        "GLM-4-9B": glm4,
        "GLM-4-0414": sandwich,
        "GLM-Z1, YaRN": replace(sandwich, bias="none", rope_scaling=yarn),
        "GLM-4.5-Air": air,
        "GLM-4.5": replace(air, qk_norm=True, experts=grouped),
    }


def write_random(config: ModelConfig, folder: Path) -> Path:
    """A directory in transformers' format with random float32 weights of that shape."""
    from chatglm.checkpoint.transformers import config_table

    format = transformers_format(config)
    assert format is not None
    folder.mkdir()
    chance = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, empty in build(config).state_dict().items():
        entry = entry_of(format, name)
        scale = 1.0 if empty.dim() < 2 else empty.shape[-1] ** -0.5
        noise = torch.randn(empty.shape, generator=chance) * scale
        value = noise / 8 + ("norm" in name) if empty.dim() < 2 else 2 * noise
        parts = [value]
        if entry.transform == "join":
            keys = config.num_kv_heads * config.head_dim
            rows = [config.num_heads * config.head_dim, keys, keys]
            parts = list(value.split(rows if ".qkv." in name else len(value) // 2))
        tensors |= {n: part.contiguous() for n, part in zip(entry.theirs, parts, strict=True)}
    save_file(tensors, folder / "model.safetensors")
    table = config_table(config, format, torch.float32, generation="glm4", ends=[], pad=None)
    (folder / "config.json").write_text(json.dumps(table), "utf-8")
    return folder


def compare(
    model: ChatGLM, ids: list[int], kind: str, python: str, work: Path
) -> dict[str, object]:
    """Figures of one file in llama.cpp."""
    file = export_gguf(model.loaded, work / f"{kind}.gguf", kind=kind)
    has_words = model.loaded.tokenizer is not None
    task = {
        "file": str(file), "ids": ids, "logits": str(work / "logits.npy"), "new": NUM_NEW,
        "texts": TEXTS if has_words else [],
    }  # fmt: skip
    (work / "task.json").write_text(json.dumps(task), "utf-8")
    done = subprocess.run(
        [python, "-c", CHILD, str(work / "task.json")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{kind}: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    theirs = torch.from_numpy(np.load(work / "logits.npy"))
    again = ChatGLM.from_pretrained(file, dtype="float32")
    assert isinstance(again, ChatGLM)
    ours, of_file = model.logits(ids).float(), again.logits(ids).float()
    log_p, log_q = ours.log_softmax(-1), theirs.log_softmax(-1)
    greedy = {"max_new_tokens": NUM_NEW, "temperature": 0.0, "repetition_penalty": 1.0}
    size = file.stat().st_size
    file.unlink()
    return {
        "bytes": size,
        "largest": float((ours - theirs).abs().max()),
        "largest_of_file": float((of_file - theirs).abs().max()),
        "divergence": max(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), 0.0),
        "same_word": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
        "same_reply": said["reply"] == again.generate_ids(ids, stop_ids=(), **greedy),  # type: ignore[arg-type]
        "same_ids": said["words"] == [model.tokenizer.encode(t) for t in TEXTS]
        if has_words
        else None,
        "llama_cpp_python": said["version"],
    }


def compare_tokenizers(folder: Path, python: str, work: Path) -> dict[str, tuple[int, int]]:
    """For each published tokenizer, how many texts there are and how many get other ids."""
    texts = sorted({text for path in folder.rglob("cases.json") for text in strings(path)})
    results = {}
    for path in sorted(folder.glob("*/tokenizer.model")):
        tokenizer = load_tokenizer(path.parent)
        file = work / "words.gguf"
        writer = gguf.GGUFWriter(file, "chatglm")
        for key, value in keys_of_tokenizer(tokenizer, tokenizer.vocab_size + 64, None).items():
            add_key(writer, key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        task = {"file": str(file), "texts": texts, "ids": str(work / "ids.json")}
        (work / "task.json").write_text(json.dumps(task), "utf-8")
        subprocess.run(
            [python, "-c", TOKENIZE, str(work / "task.json")], check=True, capture_output=True
        )
        ids = json.loads((work / "ids.json").read_text("utf-8"))
        other = sum(tokenizer.encode(t) != i for t, i in zip(texts, ids, strict=True))
        results[path.parent.name] = len(texts), other
    return results


def strings(path: Path) -> Iterator[str]:
    """Every string in a JSON file."""
    waiting = [json.loads(path.read_text("utf-8"))]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            waiting += value if isinstance(value, list) else value.values()


def is_known(model: ChatGLM) -> bool:
    """Whether llama.cpp opens the model."""
    has_prefix = model.loaded.prefix is not None
    known = transformers_format(model.config) is not None and is_square(model.config)
    return known and not has_prefix


def compare_models(
    oracles: Path | None, python: str, work: Path
) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Title, type and figures of every file."""
    sources: dict[str, Path | None] = {"embedded": None}
    for title, config in random_models().items():
        sources[f"{title}, random"] = write_random(config, work / title.replace(" ", ""))
    for path in sorted(oracles.rglob("config.json")) if oracles is not None else ():
        assert oracles is not None
        sources[str(path.parent.relative_to(oracles))] = path.parent
    for title, source in sources.items():
        model = ChatGLM.from_pretrained(source)
        assert isinstance(model, ChatGLM)
        if not is_known(model):
            continue
        ids = list(range(3, 67))
        if source is None:
            ids = list(model.continuation("".join(TEXTS)).tokens)
        for kind in TYPES:
            yield title, kind, compare(model, ids, kind, python, work)


def row(title: str, kind: str, found: dict[str, object]) -> str:
    """A line of the table."""
    told = {None: "–", True: "yes", False: "no"}
    return (
        f"| {title} | {kind} | {found['largest']:.1e} | {found['largest_of_file']:.1e} | "
        f"{found['divergence']:.1e} | {found['same_word']:.0%} | {told[found['same_reply']]} | "  # type: ignore[index]
        f"{told[found['same_ids']]} |"  # type: ignore[index]
    )


def main() -> int:
    """Print the table; 1 where float32 differs by more than 1e-3 or a tokenizer's ids differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="with llama-cpp-python")
    parser.add_argument("--oracles", type=Path, help="a directory of tiny checkpoints")
    parser.add_argument("--tokenizers", type=Path, help="a directory of published tokenizers")
    parser.add_argument("--output", help="a JSON file for the figures")
    arguments = parser.parse_args()
    print(
        "| model | type | largest difference | of the file | divergence | same word | same reply | "
        f"same ids |\n|{'---|' * 8}"
    )
    results: dict[str, object] = {}
    is_good = True
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for title, kind, found in compare_models(arguments.oracles, arguments.python, work):
            print(row(title, kind, found), flush=True)
            results[f"{title} {kind}"] = found
            is_close = kind != "f32" or float(str(found["largest"])) < 1e-3
            is_good = is_good and is_close and found["same_ids"] is not False
        if arguments.tokenizers is not None:
            words = compare_tokenizers(arguments.tokenizers, arguments.python, work)
            for title, (count, other) in words.items():
                print(f"\ntokenizer of {title}: {other} of {count:,} texts get other ids")
                is_good = is_good and not other
            results["tokenizers"] = words
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(results, indent=1), "utf-8")
    return int(not is_good)


if __name__ == "__main__":
    sys.exit(main())
