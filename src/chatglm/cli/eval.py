"""`chatglm eval`: how good a model is, in tables and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from chatglm.cli.console import note, say
from chatglm.cli.inputs import invalid_input
from chatglm.cli.options import INVALID_INPUT, CommandError, add_model_flags

FILES: Mapping[str, tuple[str, ...]] = {
    "perplexity": ("lm_heldout*.jsonl", "*heldout*.jsonl"),
    "cmmlu": ("cmmlu_test*.jsonl", "**/cmmlu_test*.jsonl", "**/cmmlu/test"),
    "ceval": ("**/ceval*/val", "**/ceval*/test"),
    "xcopa": ("xcopa*.jsonl",),
    "cmath": ("cmath*.jsonl",),
    "summarization": ("summarization*.jsonl",),
    "translation": ("translation*.jsonl",),
    "poems": (),
    "quantization": ("lm_heldout*.jsonl", "*heldout*.jsonl"),
}
TASKS = tuple(FILES)
Table = dict[str, dict[str, object]]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "eval",
        help=say("measure a model on test sets", "在测试集上评测模型"),
        description=say(
            "Tasks: " + ", ".join(TASKS) + ", all. The same seed gives the same sample.",
            "任务：" + "、".join(TASKS) + "、all（全部）。种子相同则抽样相同。",
        ),
    )
    parser.add_argument("task", choices=(*TASKS, "all"), metavar="TASK")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help=say(
            "the task's file, or a folder with the test sets (default: data/eval)",
            "任务的数据文件，或测试集所在目录（默认 data/eval）",
        ),
    )
    parser.add_argument("--limit", type=int, help=say("rows drawn by the seed", "按种子抽取的条数"))
    parser.add_argument("--seed", type=int, default=0, help=say("default 0", "默认 0"))
    parser.add_argument(
        "--shots",
        type=int,
        default=0,
        help=say("examples before a question, from *_dev", "选择题的示例数，取自 *_dev"),
    )
    parser.add_argument(
        "--by-subject", action="store_true", help=say("a row a subject", "按科目分行")
    )
    parser.add_argument("--output", metavar="FILE.json", help=say("write the numbers", "写出 JSON"))
    parser.add_argument("--json", action="store_true", help=say("JSON, no table", "只输出 JSON"))
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table a task."""
    if arguments.limit is not None and arguments.limit < 1:
        raise CommandError(f"--limit must be at least 1, got {arguments.limit}")
    from chatglm.apps.text_file import write_text
    from chatglm.cli import evaluation
    from chatglm.evaluate.metrics import table

    model = evaluation.Subject(arguments)
    measures: Mapping[str, Callable[[Path | None], Table]] = evaluation.measures(model)
    results: dict[str, Table] = {}
    for task in TASKS if arguments.task == "all" else (arguments.task,):
        path = find_data(task, arguments.data, is_needed=arguments.task != "all")
        if path is None and FILES[task]:
            note(say(f"{task}: no test set found, left out", f"{task}：未找到测试集，跳过"))
            continue
        try:
            with invalid_input():
                results[task] = measures[task](path)
        except (ValueError, KeyError) as error:
            if arguments.task == "all" and isinstance(error, CommandError) and error.code == 2:
                note(f"{task}: {error}")
                continue
            if isinstance(error, CommandError):
                raise
            raise CommandError(str(error), INVALID_INPUT) from error
        if not arguments.json:
            print(f"{table(results[task], task)}\n", flush=True)
        if arguments.output:  # after each task: a run of all of them is long
            write_text(arguments.output, record(model.name, arguments, results, indent=2))
    if arguments.json:
        print(record(model.name, arguments, results), end="")
    return 0


def record(
    name: str,
    arguments: argparse.Namespace,
    results: Mapping[str, Table],
    indent: int | None = None,
) -> str:
    """The numbers as JSON."""
    settings = {"model": name, "seed": arguments.seed, "limit": arguments.limit}
    return json.dumps({**settings, "tasks": results}, ensure_ascii=False, indent=indent) + "\n"


def find_data(task: str, given: str | None, *, is_needed: bool) -> Path | None:
    """The file or folder of a task's test set; None where there is none and it is not needed."""
    if not FILES[task]:
        return None
    folder = Path(given or "data/eval")
    if folder.is_file():
        return folder
    for pattern in FILES[task]:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    if folder.is_dir() and task in ("cmmlu", "ceval") and list(folder.glob("*.csv")):
        return folder
    if not is_needed:
        return None
    if not folder.exists():
        raise FileNotFoundError(
            f"no test set at {folder}; give --data with a file, or a folder that has "
            f"{FILES[task][0]}"
        )
    raise CommandError(f"{folder} has no {FILES[task][0]}; give the file itself by --data", 1)
