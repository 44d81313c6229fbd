"""`chatglm tokenize`: a text as a model's tokens, or tokens as text."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import say
from chatglm.cli.options import INVALID_INPUT, CommandError, add_text, given_text

if TYPE_CHECKING:
    from chatglm.tokenizer.base import Tokenizer


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tokenize",
        help=say("a text as tokens, or tokens as text", "文本与词元互转"),
        description=say(
            "Print a text's tokens, one a line: id and text. Control tokens written in the text "
            "are text.",
            "逐行打印文本的词元（编号与内容）。文本中写出的控制符按普通文本处理。",
        ),
    )
    add_text(parser)
    parser.add_argument(
        "--model",
        default=os.environ.get("CHATGLM_MODEL"),
        help=say(
            "whose tokenizer: directory or hub name; default: $CHATGLM_MODEL, else the embedded "
            "model's",
            "使用哪个模型的分词器：目录或 Hub 名称；默认 $CHATGLM_MODEL，否则为内置模型",
        ),
    )
    parser.add_argument("--revision", help=say("branch, tag or commit on the hub", "Hub 上的版本"))
    parser.add_argument(
        "--offline", action="store_true", help=say("never touch the network", "不访问网络")
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help=say("as a question in the model's chat format", "按模型的对话格式编码"),
    )
    parser.add_argument(
        "--decode",
        action="store_true",
        help=say("the words are ids; print their text", "输入为编号，输出对应文本"),
    )
    parser.add_argument(
        "--ids", action="store_true", help=say("ids alone, on a line", "只输出编号")
    )
    parser.add_argument("--count", action="store_true", help=say("how many only", "只输出数量"))
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tokens, or the text."""
    text = given_text(arguments.text)
    tokenizer = load(arguments)
    if arguments.decode:
        ids = read_ids(text, tokenizer)
    elif arguments.chat:
        from chatglm.messages import Message

        ids = tokenizer.template.render([Message(role="user", content=text)]).tokens
    else:
        ids = tokenizer.encode(text)
    pieces = [tokenizer.decode([i], skip_special=False) for i in ids]
    if arguments.json:
        told = {"count": len(ids), "tokens": ids, "pieces": pieces}
        if arguments.decode:
            told["text"] = tokenizer.decode(ids, skip_special=False)
        print(json.dumps(told, ensure_ascii=False))
    elif arguments.count:
        print(len(ids))
    elif arguments.decode:
        print(tokenizer.decode(ids, skip_special=False))
    elif arguments.ids:
        print(*ids)
    else:
        for i, piece in zip(ids, pieces, strict=True):
            print(f"{i:>7}  {shown(piece)}")
    return 0


def shown(piece: str) -> str:
    """A token's text on one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in piece)


def read_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids from words, commas and brackets allowed."""
    words = text.replace(",", " ").strip("[] \n").split()
    most = max(tokenizer.vocab_size, max(tokenizer.special_ids, default=0) + 1)
    for word in words:
        if not (word.isascii() and word.isdigit()) or int(word) >= most:
            raise CommandError(f"--decode takes ids from 0 to {most - 1}, got {word[:40]!r}")
    return [int(word) for word in words]


def load(arguments: argparse.Namespace) -> Tokenizer:
    """The tokenizer that the flags name."""
    from chatglm.checkpoint.resolve import resolve
    from chatglm.tokenizer import load_tokenizer

    source = arguments.model
    if source is not None and source.startswith("openai/"):
        raise CommandError(
            f"{source} is a remote service, which tells no tokens; leave --model out to use the "
            "embedded model's tokenizer"
        )
    try:
        offline = True if arguments.offline else None
        return load_tokenizer(resolve(source, revision=arguments.revision, offline=offline))
    except (ValueError, FileNotFoundError) as error:
        is_damaged = source is None or Path(source).exists()
        raise CommandError(str(error), INVALID_INPUT if is_damaged else 1) from error
