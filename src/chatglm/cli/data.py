"""`chatglm data`: look at examples before training on them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from chatglm.cli.console import has_colour, paint, say
from chatglm.cli.options import INVALID_INPUT, CommandError

if TYPE_CHECKING:
    from chatglm.data.check import Report
    from chatglm.data.example import Example
    from chatglm.data.examples import Collection
    from chatglm.tokenizer import Tokenizer


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "data",
        help=say("check and show training data", "检查和查看训练数据"),
        description=say(
            "Look at a file of examples the way training reads it.", "按训练时的读法查看数据文件。"
        ),
    )
    actions = parser.add_subparsers(dest="action", metavar="check|show", required=True)
    check = actions.add_parser(
        "check",
        help=say("lengths, duplicates, doubtful records", "长度、重复与可疑数据"),
        description=say(
            "Counts, lengths with a histogram, duplicates, broken characters, answers cut off, and "
            "one example with its loss mask.",
            "统计数量与长度分布，检查重复、乱码、被截断的回答，并显示一条带损失掩码的样例。",
        ),
    )
    show = actions.add_parser(
        "show",
        help=say("examples with what is learnt in colour", "显示样例，学习的部分着色"),
        description=say(
            "Examples as the model reads them; what it learns is green.",
            "按模型读到的样子显示样例，参与学习的部分为绿色。",
        ),
    )
    for action in (check, show):
        add_flags(action)
    check.add_argument(
        "--cutoff-len", type=int, help=say("count what is longer", "统计超过该长度的样例")
    )
    show.add_argument("-n", "--number", type=int, default=3, help=say("how many", "条数"))
    check.set_defaults(run=run_check)
    show.set_defaults(run=run_show)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What both actions take."""
    parser.add_argument(
        "file",
        help=say(
            "a file, directory or hub id; #100 takes the first 100", "文件、目录或 Hub 数据集"
        ),
    )
    parser.add_argument(
        "--model",
        help=say("whose tokenizer and chat format (default: embedded)", "使用哪个模型的格式"),
    )
    add_column_flags(parser)
    parser.add_argument("--json", action="store_true", help=say("as JSON", "输出 JSON"))
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)


def add_column_flags(parser: argparse.ArgumentParser) -> None:
    """Names of columns that are not the usual ones."""
    parser.add_argument("--prompt-column", help=say("the column of questions", "问题所在的列"))
    parser.add_argument("--response-column", help=say("the column of answers", "回答所在的列"))
    parser.add_argument(
        "--history-column", help=say("the column of earlier rounds", "历史所在的列")
    )


def collected(args: argparse.Namespace) -> tuple[Collection, Tokenizer]:
    """The examples of the file, bad ones listed, none too long."""
    from chatglm.checkpoint.resolve import resolve
    from chatglm.data.examples import collect, holds_pairs
    from chatglm.data.kinds import Columns
    from chatglm.tokenizer import load_tokenizer

    columns = None
    if args.prompt_column or args.response_column:
        columns = Columns(
            prompt=args.prompt_column or "prompt",
            response=args.response_column or "response",
            history=args.history_column or "history",
        )
    tokenizer = load_tokenizer(resolve(args.model))
    try:
        found = collect(
            args.file,
            tokenizer,
            cutoff=1 << 40,
            skip_bad=True,
            columns=columns,
            wants_pairs=holds_pairs(args.file, columns),
        )
    except ValueError as error:
        raise CommandError(str(error), INVALID_INPUT) from error
    return found, tokenizer


def run_check(args: argparse.Namespace) -> int:
    """Say what the file is like; 3 where records are bad."""
    from chatglm.data.check import examine

    found, tokenizer = collected(args)
    report = examine(found, args.cutoff_len or 1 << 40)
    if args.json:
        print(json.dumps(report.as_dict(), ensure_ascii=False, indent=1))
    else:
        print_report(report, found, args.cutoff_len)
        print()
        show_item(found, 0, tokenizer)
    return INVALID_INPUT if report.num_bad else 0


def run_show(args: argparse.Namespace) -> int:
    """Show examples, learnt tokens in colour."""
    found, tokenizer = collected(args)
    for index in range(min(args.number, len(found.items))):
        if args.json:
            print(json.dumps(item_table(found, index, tokenizer), ensure_ascii=False))
        else:
            show_item(found, index, tokenizer)
            print()
    for sentence in found.bad:
        print(paint(sentence, "red", sys.stderr), file=sys.stderr)
    return INVALID_INPUT if found.bad else 0


def print_report(report: Report, found: Collection, cutoff: int | None) -> None:
    """The report as lines."""
    print(paint(found.described(), "bold", sys.stdout))
    print(
        say(
            f"{report.records:,} records, {report.tokens:,} tokens, {report.targets:,} of them "
            "learnt",
            f"{report.records:,} 条记录，{report.tokens:,} 个词元，学习其中 {report.targets:,} 个",
        )
    )
    lengths = report.lengths
    print(
        say("tokens an example: ", "每条样例的词元数：")
        + ", ".join(f"{name} {value:,}" for name, value in lengths.items())
    )
    widest = max(count for _, _, count in report.histogram)
    for low, high, count in report.histogram:
        bar = "█" * max(round(40 * count / widest), 1 if count else 0)
        print(f"{low:>7,} – {high - 1:<7,} {paint(bar, 'cyan', sys.stdout)} {count:,}")
    if cutoff is not None:
        print(
            say(
                f"{report.longer_than_cutoff:,} examples are longer than {cutoff:,} tokens",
                f"{report.longer_than_cutoff:,} 条超过 {cutoff:,} 个词元",
            )
        )
    doubts = (
        (say("duplicates", "重复"), report.num_duplicates, report.duplicates),
        (
            say("one question, two answers", "同一问题不同回答"),
            report.num_contradictions,
            report.contradictions,
        ),
        (say("broken characters", "乱码"), report.num_mojibake, report.mojibake),
        (say("answers that stop midway", "回答似被截断"), report.num_unfinished, report.unfinished),
        (say("bad records", "无法使用的记录"), report.num_bad, report.bad),
    )
    for name, count, places in doubts:
        print(f"{name}: {paint(f'{count:,}', 'red' if count else 'green', sys.stdout)}")
        for place in places:
            print(f"    {place}")


def show_item(found: Collection, index: int, tokenizer: Tokenizer) -> None:
    """An example, or both answers of a pair, as the model reads them."""
    record = found.prompts[found.record_of[index]]
    names = (" chosen", " rejected") if len(found.items[index]) == 2 else ("",)
    for name, example in zip(names, found.items[index], strict=True):
        learnt = learnt_of(example)
        head = say(
            f"{record.where}{name}: {len(example):,} tokens, {sum(learnt):,} learnt",
            f"{record.where}{name}：{len(example):,} 个词元，学习 {sum(learnt):,} 个",
        )
        print(paint(head, "dim", sys.stdout))
        print(coloured(example, learnt, tokenizer))


def learnt_of(example: Example) -> list[bool]:
    """Which tokens are learnt: those that the label before them names."""
    return [False, *(label >= 0 for label in example.labels[:-1].tolist())]


def coloured(example: Example, learnt: list[bool], tokenizer: Tokenizer) -> str:
    """The text with learnt stretches in green, or between ⟦ and ⟧ where there are no colours."""
    parts: list[str] = []
    tokens = example.tokens.tolist()
    start = 0
    for at in range(1, len(tokens) + 1):
        if at < len(tokens) and learnt[at] == learnt[start]:
            continue
        text = tokenizer.decode(tokens[start:at], skip_special=False)
        if learnt[start]:
            text = paint(text, "green", sys.stdout) if has_colour(sys.stdout) else f"⟦{text}⟧"
        else:
            text = paint(text, "dim", sys.stdout)
        parts.append(text)
        start = at
    return "".join(parts)


def item_table(found: Collection, index: int, tokenizer: Tokenizer) -> dict[str, object]:
    """An example as plain data."""
    return {
        "where": found.prompts[found.record_of[index]].where,
        "examples": [
            {
                "text": tokenizer.decode(example.tokens.tolist(), skip_special=False),
                "tokens": example.tokens.tolist(),
                "learnt": learnt_of(example),
                "prefix": example.prefix,
            }
            for example in found.items[index]
        ],
    }
