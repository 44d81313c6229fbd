"""`chatglm config`: every setting, and where its value comes from."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence

from chatglm.cli import config_file
from chatglm.cli.console import paint, say, speaks_chinese
from chatglm.cli.options import CommandError

VARIABLES = (
    *("CHATGLM_HOME", "CHATGLM_MODEL", "CHATGLM_API_KEY", "CHATGLM_SOURCE", "CHATGLM_LANG"),
    *("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
    *("HF_TOKEN", "MODELSCOPE_CACHE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "NO_COLOR", "FORCE_COLOR", "RAY_ADDRESS"),
)
SECRET = ("KEY", "TOKEN")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "config",
        help=say("every setting and where it comes from", "查看各项设置及其来源"),
        description=say(
            "Each value of a command's flags and where it comes from: a flag, the environment, the "
            "configuration file, or the default. Without a command: what is set for all of them.",
            "显示某条命令每个参数的值及来源：参数、环境变量、配置文件或默认值；"
            "不给命令则显示通用设置。",
        ),
    )
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    parser.add_argument("of", nargs="?", metavar=say("COMMAND", "命令"))
    parser.add_argument("flags", nargs=argparse.REMAINDER, metavar="FLAGS")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the values."""
    file = config_file.read(arguments.config)
    shown = (
        shared(file) if arguments.of is None else of_command(arguments.of, arguments.flags, file)
    )
    if arguments.json:
        told = {name: {"value": value, "origin": at} for name, (value, at) in shown.items()}
        print(json.dumps(told, ensure_ascii=False, default=str))
        return 0
    width = max(map(len, shown), default=0)
    for name, (value, origin) in shown.items():
        text = "–" if value in (None, [], ()) else str(value)
        print(f"{name:<{width}}  {text}  {paint(f'({origin})', 'dim', sys.stdout)}")
    return 0


def shared(file: config_file.ConfigFile) -> dict[str, tuple[object, str]]:
    """The file, what it sets, and the variables that are set."""
    there = "" if file.path.exists() else say(", not there", "，不存在")
    shown: dict[str, tuple[object, str]] = {"config": (file.path, f"file{there}")}
    language = "zh" if speaks_chinese() else "en"
    shown["language"] = (
        language,
        next((f"environment {v}" for v in LANGUAGE if is_set(v)), "default"),
    )
    for key, value in file.tables.items():
        of_table = value if isinstance(value, dict) else {"": value}
        for name, inner in of_table.items():
            place = f"[{key}] {name}" if name else key
            shown[place] = (masked(name or key, inner), str(file.path))
    for name in VARIABLES:
        if is_set(name):
            shown[name] = (masked(name, os.environ[name]), "environment")
    return shown


LANGUAGE = ("CHATGLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def is_set(variable: str) -> bool:
    """Whether an environment variable says anything."""
    return bool(os.environ.get(variable))


def of_command(
    name: str, flags: Sequence[str], file: config_file.ConfigFile
) -> dict[str, tuple[object, str]]:
    """Each flag of a command as it would be with these flags."""
    from chatglm.cli import commands_of, make_parser

    parser = make_parser()
    known = commands_of(parser)
    if name not in known:
        raise CommandError(f"there is no command {name!r}; there are {', '.join(known)}")
    arguments, origins = config_file.parse(parser, known, [name, *flags], file, name)
    shown: dict[str, tuple[object, str]] = {}
    for dest, origin in sorted(origins.items()):
        value = getattr(arguments, dest)
        if origin.startswith("environment "):
            value = os.environ[origin.removeprefix("environment ")]
        shown[dest.replace("_", "-")] = (masked(dest, value), origin)
    return shown


def masked(name: str, value: object) -> object:
    """A value; a secret only in that it is there."""
    if isinstance(value, str):
        value = re.sub(r"//[^/@]+@", "//***@", value)
    is_secret = any(name.upper().replace("-", "_").endswith(word) for word in SECRET)
    return "***" if is_secret and value not in (None, [], (), "") else value
