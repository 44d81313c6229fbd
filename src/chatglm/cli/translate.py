"""`chatglm translate`: texts and documents, Chinese, English and classical Chinese."""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import note, say
from chatglm.cli.inputs import ProgressLine, add_input, given_documents, invalid_input
from chatglm.cli.options import CommandError, add_model_flags, load_model
from chatglm.cli.remarks import remark

if TYPE_CHECKING:
    from chatglm.apps.translate import Translation, Translator


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "translate", help=say("translate texts and documents", "翻译文本与文档")
    )
    add_input(parser)
    group = parser.add_argument_group(say("translation", "翻译"))
    group.add_argument(
        "--from",
        dest="source",
        metavar="LANGUAGE",
        help=say("zh, en or lzh (classical); recognized", "zh、en 或 lzh（文言），默认自动识别"),
    )
    group.add_argument(
        "--to", dest="target", metavar="LANGUAGE", help=say("zh, en or lzh", "目标语言")
    )
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=say(
            "write there; a broken-off translation goes on with the same command",
            "输出文件；中断后再次运行同一命令可继续",
        ),
    )
    group.add_argument(
        "--format",
        choices=("text", "markdown", "srt", "vtt", "json", "po"),
        help=say("default: by the file's name", "默认按文件名判断"),
    )
    group.add_argument(
        "--glossary",
        metavar="FILE",
        help=say("CSV or TSV of terms and their translations", "术语表（CSV/TSV：术语,译名）"),
    )
    group.add_argument(
        "--memory",
        metavar="FILE",
        help=say(
            "translation memory (default for files: $CHATGLM_HOME/translation.sqlite)",
            "翻译记忆库（翻译文件时默认 $CHATGLM_HOME/translation.sqlite）",
        ),
    )
    group.add_argument("--no-memory", action="store_true", help=say("none", "不用翻译记忆"))
    group.add_argument(
        "--import-memory",
        metavar="FILE",
        help=say("put pairs of a TSV file into the memory first", "先把 TSV 句对导入翻译记忆"),
    )
    group.add_argument(
        "--fuzzy",
        type=float,
        default=0.9,
        help=say("likeness from which a memory is used (0.9)", "模糊匹配的最低相似度，默认 0.9"),
    )
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.add_argument("-q", "--quiet", action="store_true", help=say("no remarks", "不显示提示"))
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print or write the translation."""
    if arguments.output:
        if len(arguments.input) != 1 or not os.path.isfile(arguments.input[0]):
            raise CommandError("--output takes one input file, e.g. chatglm translate a.md -o b.md")
        return to_file(arguments)
    if not arguments.input and arguments.import_memory:
        make_translator(arguments, for_file=True)
        return 0
    documents = given_documents(arguments.input, "translate")
    is_file = any(os.path.isfile(word) for word in arguments.input)
    translator = make_translator(arguments, for_file=is_file)
    from chatglm.apps.translate.formats import format_of

    for document in documents:
        with invalid_input(), progress_line(arguments) as progress:
            done = translator.translate_document(
                document.text,
                arguments.format or format_of(document.name, document.text),
                source=arguments.source,
                target=arguments.target,
                name=document.name,
                on_progress=progress,
            )
        show(done, arguments)
    return 0


def to_file(arguments: argparse.Namespace) -> int:
    """Translate a file into another."""
    translator = make_translator(arguments, for_file=True)
    with invalid_input(), progress_line(arguments) as progress:
        done = translator.translate_file(
            arguments.input[0],
            arguments.output,
            format=arguments.format,
            source=arguments.source,
            target=arguments.target,
            on_progress=progress,
        )
    if arguments.json:
        print(json.dumps(record(done, arguments.output), ensure_ascii=False))
    elif not arguments.quiet:
        counts = ", ".join(f"{n} {origin}" for origin, n in done.origins.items())
        note(f"{arguments.output}: {done.direction}, {counts}")
        show_notes(done)
    return 0


def show(done: Translation, arguments: argparse.Namespace) -> None:
    """The translation on stdout, remarks on stderr."""
    if arguments.json:
        print(json.dumps(record(done, None), ensure_ascii=False))
        return
    print(done.text, end="" if done.text.endswith("\n") else "\n")
    if not arguments.quiet:
        show_notes(done)


def show_notes(done: Translation, most: int = 10) -> None:
    """What had to be repaired, by line."""
    for line, text in done.notes[:most]:
        note(remark(f"line {line}: {text}"))
    if len(done.notes) > most:
        note(say(f"… and {len(done.notes) - most} more", f"……另有 {len(done.notes) - most} 条"))


def record(done: Translation, output: str | None) -> dict[str, object]:
    """The translation as JSON has it."""
    return {
        **({"text": done.text} if output is None else {"output": output}),
        "source": done.direction.source,
        "target": done.direction.target,
        "format": done.format,
        "origins": dict(done.origins),
        "notes": [{"line": line, "note": text} for line, text in done.notes],
    }


def progress_line(arguments: argparse.Namespace) -> ProgressLine:
    """Segments that are done."""
    return ProgressLine(say("translating", "翻译"), quiet=arguments.quiet)


def make_translator(arguments: argparse.Namespace, *, for_file: bool) -> Translator:
    """What translates, with glossary and memory."""
    from chatglm.apps.translate import Glossary, Memory, Translator
    from chatglm.apps.translate.direction import tongue

    for name in (arguments.source, arguments.target):
        if name is not None:
            try:
                tongue(name)
            except ValueError as error:
                raise CommandError(str(error)) from error
    if not 0.5 <= arguments.fuzzy <= 1:
        raise CommandError(f"--fuzzy must lie between 0.5 and 1, got {arguments.fuzzy}")
    with invalid_input():
        glossary = Glossary.read(arguments.glossary) if arguments.glossary else None
        pairs = read_pairs(arguments.import_memory) if arguments.import_memory else []
    memory = None
    if not arguments.no_memory and (for_file or arguments.memory or pairs):
        memory = Memory(arguments.memory)
    is_embedded = arguments.model is None and arguments.adapter is None
    model = None if is_embedded else load_model(arguments)
    translator = Translator(model, glossary=glossary, memory=memory, fuzzy=arguments.fuzzy)
    if pairs:
        translator.remember(pairs, source=arguments.source, target=arguments.target)
        note(say(f"{len(pairs)} pairs imported", f"已导入 {len(pairs)} 对句子"))
    return translator


def read_pairs(path: str) -> list[tuple[str, str]]:
    """Pairs of a text and its translation, separated by a tab."""
    from chatglm.apps.text_file import InvalidText, read_text

    rows = csv.reader(read_text(Path(path)).text.splitlines(), delimiter="\t")
    pairs = []
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            raise InvalidText(f"{path} line {number}: expected TEXT, a tab and its translation")
        pairs.append((row[0].strip(), row[1].strip()))
    return pairs
