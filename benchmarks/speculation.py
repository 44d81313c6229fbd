"""What trying tokens ahead saves, by task: steps and time with and without, in one run.

    python -m benchmarks.speculation [MODEL] [--draft MODEL] [--speculate 8] [--tokens 120]
        [--texts FILE.jsonl]

MODEL: a directory or hub id; the embedded model without one. Replies are greedy, then drawn; a
reply that differs with and without speculation is an error. --texts: lines {"article": …}, of which
25 are summed up and rewritten too.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chatglm import ChatGLM
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.messages import Message
from chatglm.prompt import Prompt

NEWS = (
    "本市图书馆自下月一日起延长开放时间，周一至周五开放至晚上九点，周六和周日开放至晚上六点。"
    "读者凭身份证或读者证入馆，每人一次可借图书十册，借期三十天，可续借一次。"
    "馆内新设自习座位二百个，须提前一天在公众号预约，迟到三十分钟座位自动取消。"
)
RECORD = (
    '{"name": "张三", "city": "北京", "phone": "13800000000"}\n'
    '{"name": "李四", "city": "上海", "phone": "13900000000"}\n'
)
TASKS = {
    "copy a text": f"请原样重复下面的文字：\n{NEWS}",
    "correct a text": f"请改正下面文字中的错别字，其余保持不变：\n{NEWS}",
    "answer from a text": f"{NEWS}\n根据上面的通知回答：周末开放到几点？每人可以借几册图书？",
    "summarize a text": f"请用一句话概括下面的通知：\n{NEWS}",
    "continue records": f"请把下面的记录改写成表格，再补充三条同样格式的记录：\n{RECORD}",
    "write freely": "请写一段关于秋天的短文。",
    "chat": "你好，请介绍一下你自己。",
}

NUM_TEXTS, MOST_CHARACTERS, MOST_REWRITTEN = 25, 1500, 150


def tasks_of(path: Path) -> dict[str, list[str]]:
    """Texts of a file to be summed up, and their beginnings to be rewritten."""
    rows = [json.loads(line)["article"] for line in path.read_text("utf-8").splitlines()]
    random.Random(1).shuffle(rows)
    texts = [text for text in rows if text and len(text) <= MOST_CHARACTERS][:NUM_TEXTS]
    return {
        f"summaries of {len(texts)} texts": [f"请为以下文章写一段简短的摘要：\n{t}" for t in texts],
        f"{len(texts)} texts rewritten": [
            f"请把下面的话改写得更正式：\n{text[:MOST_REWRITTEN]}" for text in texts
        ],
    }


@dataclass
class Run:
    """A reply and what it cost."""

    tokens: list[int]
    steps: int
    seconds: float
    drafted: int
    accepted: int


def run(engine: Engine, prompt: Prompt, sampling: Sampling) -> Run:
    """One reply, without the time of reading the prompt."""
    steps, replies = engine.num_steps, engine.replies
    drafted, accepted = replies.num_drafted, replies.num_accepted
    outputs = engine.stream(prompt, sampling)
    tokens = [next(outputs).token]
    start = time.perf_counter()
    tokens += [output.token for output in outputs]
    return Run(
        tokens=[token for token in tokens if token is not None],
        steps=engine.num_steps - steps,
        seconds=time.perf_counter() - start,
        drafted=replies.num_drafted - drafted,
        accepted=replies.num_accepted - accepted,
    )


def compare(model: ChatGLM, texts: Sequence[str], plain: Sampling, count: int) -> str:
    """A row of the table over all texts; a ValueError where the replies differ."""
    pairs = [both(model, text, plain, count) for text in texts]
    tokens = sum(len(ahead.tokens) for _, ahead in pairs)
    steps = [sum(run.steps for run in runs) for runs in zip(*pairs, strict=True)]
    seconds = [sum(run.seconds for run in runs) for runs in zip(*pairs, strict=True)]
    drafted, accepted = (
        sum(ahead.drafted for _, ahead in pairs),
        sum(ahead.accepted for _, ahead in pairs),
    )
    return (
        f"{tokens} | {steps[0] / max(steps[1], 1):.2f} | "
        f"{accepted / max(drafted, 1):.0%} | {seconds[0] / max(seconds[1], 1e-9):.2f}"
    )


def both(model: ChatGLM, text: str, plain: Sampling, count: int) -> tuple[Run, Run]:
    """The reply to a text without and with speculation, each the fastest of three."""
    if model.tokenizer.template.is_chat:
        prompt = model.tokenizer.template.prompt([Message(role="user", content=text)])
    else:
        prompt = model.continuation(text)
    run(model.engine, prompt, plain)  # both find the prompt in the prefix cache
    without = min((run(model.engine, prompt, plain) for _ in range(3)), key=lambda r: r.seconds)
    ahead = replace(plain, speculate=count)
    with_it = min((run(model.engine, prompt, ahead) for _ in range(3)), key=lambda r: r.seconds)
    if with_it.tokens != without.tokens:
        raise ValueError(f"the reply differs with speculation: {text[:20]}")
    return without, with_it


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--draft")
    parser.add_argument("--speculate", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--texts", type=Path)
    args = parser.parse_args()
    model = ChatGLM.from_pretrained(args.model, draft=args.draft)
    assert isinstance(model, ChatGLM)
    print("| task | reply | tokens | tokens a step | drafts right | speed-up |")
    print("|---|---|---|---|---|---|")
    tasks = {name: [text] for name, text in TASKS.items()}
    for name, texts in (tasks | (tasks_of(args.texts) if args.texts else {})).items():
        for kind, temperature in (("greedy", 0.0), ("drawn", 0.8)):
            plain = Sampling(temperature=temperature, seed=1, max_new_tokens=args.tokens)
            print(f"| {name} | {kind} | {compare(model, texts, plain, args.speculate)} |")


if __name__ == "__main__":
    main()
