"""`chatglm write`: stories, news, poems, couplets, letters; and work on drafts."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from chatglm.cli.console import note, paint, say, width
from chatglm.cli.inputs import ProgressLine, given_documents, invalid_input
from chatglm.cli.options import CommandError, add_model_flags, load_model
from chatglm.cli.remarks import remark

if TYPE_CHECKING:
    from chatglm.apps.write import Writer, Written

DRAFTS = ("continue", "rewrite", "fill")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "write",
        help=say(
            "write in a form: poem, couplet, story, news, e-mail …", "按体裁写作：诗、对联、故事等"
        ),
        description=say(
            "FORM is a form of writing (--list shows them), or continue, rewrite or fill for a "
            "draft, which is a file, a text or a pipe.",
            "FORM 为体裁（--list 查看），或 continue 续写、rewrite 改写、fill 填空"
            "（对象为文件、文本或管道）。",
        ),
    )
    parser.add_argument("form", nargs="?", metavar="FORM")
    parser.add_argument(
        "topic", nargs="*", metavar="TOPIC", help=say("what about; or the draft", "题目，或草稿")
    )
    parser.add_argument("--list", action="store_true", help=say("show the forms", "列出全部体裁"))
    parser.add_argument(
        "--length", type=int, metavar="CHARACTERS", help=say("characters of prose", "散文体的字数")
    )
    parser.add_argument(
        "--outline",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=say("write by sections (default: where it is long)", "先列提纲再分节（长文默认）"),
    )
    parser.add_argument(
        "--tone", default="formal", help=say("of rewrite", "改写的语气，默认 formal")
    )
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help=say("a field of the form, e.g. to=Ann", "体裁中的字段，如 to=王经理"),
    )
    parser.add_argument("--seed", type=int, help=say("same seed, same text", "种子相同则结果相同"))
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.add_argument("-q", "--quiet", action="store_true", help=say("no remarks", "不显示提示"))
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was written."""
    with invalid_input():
        if arguments.list:
            return show_forms()
        if not arguments.form:
            raise CommandError('no form; e.g. chatglm write poem "春雨", or chatglm write --list')
        check(arguments)
        writer = make_writer(arguments)
        done = draft(writer, arguments) if arguments.form in DRAFTS else text(writer, arguments)
    if arguments.json:
        print(
            json.dumps(
                {
                    "form": done.form,
                    "text": done.text,
                    "outline": list(done.outline),
                    "notes": list(done.notes),
                },
                ensure_ascii=False,
            )
        )
        return 0
    print(done.text)
    if not arguments.quiet:
        for one in done.notes:
            note(remark(one))
    return 0


def check(arguments: argparse.Namespace) -> None:
    """A usage error before a model is loaded."""
    from chatglm.apps.write.forms import all_forms, find_form

    if arguments.form in DRAFTS:
        name = arguments.tone if arguments.form == "rewrite" else "story"
    else:
        name = arguments.form
    try:
        find_form(name, all_forms())
    except ValueError as error:
        raise CommandError(f"{error}; chatglm write --list says more") from error
    if arguments.form not in DRAFTS and not arguments.topic:
        raise CommandError(f'no topic; e.g. chatglm write {arguments.form} "春雨"')
    for field in arguments.field:
        if "=" not in field:
            raise CommandError(f"--field must be NAME=TEXT, got {field!r}")


def text(writer: Writer, arguments: argparse.Namespace) -> Written:
    """A new text."""
    with ProgressLine(say("writing", "写作"), quiet=arguments.quiet) as progress:
        return writer.write(
            arguments.form,
            " ".join(arguments.topic),
            length=arguments.length,
            outline=arguments.outline,
            seed=arguments.seed,
            fields=dict(field.split("=", 1) for field in arguments.field),
            on_progress=progress,
        )


def draft(writer: Writer, arguments: argparse.Namespace) -> Written:
    """A draft that was worked on."""
    from chatglm.apps.write import Written

    documents = given_documents(arguments.topic, f"write {arguments.form}")
    source = "\n".join(d.text for d in documents).rstrip("\n")
    if arguments.form == "rewrite":
        return writer.rewrite(source, arguments.tone, seed=arguments.seed)
    if arguments.form == "fill":
        return Written(text=writer.fill(source, seed=arguments.seed), form="fill")
    length = arguments.length or 200
    return Written(text=writer.go_on(source, length=length, seed=arguments.seed), form="continue")


def make_writer(arguments: argparse.Namespace) -> Writer:
    """What writes."""
    from chatglm.apps.write import Writer

    is_embedded = arguments.model is None and arguments.adapter is None
    return Writer(None if is_embedded else load_model(arguments))


def show_forms() -> int:
    """Print every form with its names."""
    from chatglm.apps.write.forms import all_forms

    for form in all_forms().values():
        names = "、".join((form.title, *form.aliases))
        gap = " " * max(1, 16 - width(form.name))
        print(f"{paint(form.name, 'cyan', sys.stdout)}{gap}{names} ({form.kind})")
    return 0
