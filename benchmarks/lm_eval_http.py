"""lm-eval's `local-completions` against `chatglm serve` beside the scores of the model itself.

    python -m benchmarks.lm_eval_http [--count 200]

Needs `pip install 'lm-eval[api]'`. lm-eval is given no tokenizer (tokenizer_backend=remote): the
server makes the tokens. Each request is a context and one of its continuations; the
log-probabilities and whether each continuation is the greedy one must be those that one pass of the
model here gives. Ends with an error where one differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from tests.serve.conftest import start_server

from chatglm import ChatGLM

CONTEXTS = (
    "问题：一年有几个季节？\n答案：",
    "床前明月光，",
    "今天天气很好，我们去",
    "The capital of China is",
    "水在零度以下会变成",
    "第{}题：小明有{}个苹果，又买了两个。他一共有",
)
CONTINUATIONS = ("四个。", "疑是地上霜。", "公园散步。", " Beijing.", "冰。", "{}个苹果。")
MOST = 1e-4


def pairs(count: int) -> list[tuple[str, str]]:
    """Contexts with continuations, right and wrong ones."""
    made = []
    for i in range(count):
        context = CONTEXTS[i % len(CONTEXTS)].format(i, i)
        made.append((context, CONTINUATIONS[i // len(CONTEXTS) % len(CONTINUATIONS)].format(i)))
    return made


def here(model: ChatGLM, context: str, continuation: str) -> tuple[float, bool]:
    """Log-probability of a continuation, and whether each of its tokens is the likeliest."""
    encode = model.tokenizer.encode
    start = encode(context)
    ids = torch.tensor(start + encode(continuation))
    hidden = model.transformer(ids[None], torch.arange(len(ids))[None, None])
    scores = model.transformer.logits(hidden)[0, len(start) - 1 : -1].float().log_softmax(-1)
    wanted = ids[len(start) :]
    total = scores.gather(-1, wanted[:, None]).sum()
    return float(total), bool((scores.argmax(-1) == wanted).all())


@torch.inference_mode()
def main() -> int:
    """Compare and print the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    made = pairs(arguments.count)
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder) / "log")
        try:
            remote = LocalCompletionsAPI(
                model="nano",
                base_url=f"{server.url}/v1/completions",
                tokenizer_backend="remote",
                num_concurrent=4,
            )
            asked = [
                Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
                for i, pair in enumerate(made)
            ]
            told = remote.loglikelihood(asked)
        finally:
            server.process.kill()
            server.process.wait()
    model = ChatGLM.from_pretrained()
    assert isinstance(model, ChatGLM)
    own = [here(model, *pair) for pair in made]
    largest = max(abs(a - b) for (a, _), (b, _) in zip(told, own, strict=True))
    same = sum(a == b for (_, a), (_, b) in zip(told, own, strict=True))
    print(f"{len(made)} continuations: largest difference {largest:.2e}, greedy alike in {same}")
    return 0 if largest <= MOST and same == len(made) else 1


if __name__ == "__main__":
    sys.exit(main())
