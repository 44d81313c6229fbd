"""Where the value of a flag comes from: the flag, the environment, the configuration file, the
default, in this order.
"""

from __future__ import annotations

import argparse
import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatglm.cli.console import say
from chatglm.cli.options import CommandError

ENVIRONMENT = {
    "model": ("CHATGLM_MODEL",),
    "api_key": ("CHATGLM_API_KEY",),
    "url": ("OPENAI_BASE_URL",),
    "offline": ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
}
"""The variables that are heeded where a flag is not given; whoever uses the flag reads them."""
NOT_SET_IN_FILES = frozenset({"help", "debug", "version", "config"})


class NotGiven(list[object]):
    """Stands for the value of a flag that the command line leaves out; a flag that may be repeated
    adds to it.
    """

    def __init__(self, action: argparse.Action) -> None:
        super().__init__()
        self.action, self.default = action, action.default
        if isinstance(action.default, str) and callable(action.type):
            self.default = action.type(action.default)


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """The settings of a file: those outside any table are for all commands, a table's for one."""

    path: Path
    tables: Mapping[str, object] = field(default_factory=dict)

    def of(self, command: str) -> dict[str, object]:
        """What it sets for a command."""
        shared = {k: v for k, v in self.tables.items() if not isinstance(v, dict)}
        own = self.tables.get(command.replace("_", "-"), self.tables.get(command, {}))
        assert isinstance(own, dict)
        return {key.replace("-", "_"): value for key, value in (shared | own).items()}


def default_path() -> Path:
    """`chatglm/config.toml` below $XDG_CONFIG_HOME, else below ~/.config."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "chatglm" / "config.toml"


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """`--config`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=say(f"settings (default: {default_path()})", f"配置文件（默认 {default_path()}）"),
    )


def read(path: Path | None) -> ConfigFile:
    """The settings of a file; of the default one, which need not be there."""
    found = path or default_path()
    try:
        return ConfigFile(path=found, tables=tomllib.loads(found.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        if path is None:
            return ConfigFile(path=found)
        raise CommandError(f"--config {path} is not there") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"{found} cannot be read as TOML ({error})") from error


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser, and those of the commands below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from leaves(below)


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags of a command and of those below it, by the names of their values."""
    return {
        action.dest: action
        for leaf in leaves(parser)
        for action in leaf._actions
        if action.option_strings
        and action.dest not in NOT_SET_IN_FILES
        and argparse.SUPPRESS not in (action.default, action.dest)
    }


def check(file: ConfigFile, commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """An error where a file names a command or a flag that there is not."""
    everywhere = {dest for parser in commands.values() for dest in flags_of(parser)}
    for key, value in file.tables.items():
        if isinstance(value, dict):
            if key not in commands:
                raise unknown(file, f"[{key}]", key, list(commands), "a command")
            known = set(flags_of(commands[key]))
            for name in value:
                if name.replace("-", "_") not in known:
                    raise unknown(file, f"[{key}] {name}", name, known, f"a flag of {key}")
        elif key.replace("-", "_") not in everywhere:
            raise unknown(file, key, key, everywhere, "a flag of any command")


def unknown(
    file: ConfigFile, place: str, name: str, known: Sequence[str] | set[str], what: str
) -> CommandError:
    """The error of a name that means nothing here, with what may have been meant."""
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    meant = f"; did you mean {close[0]}?" if close else "; leave it out"
    return CommandError(f"{file.path}: {place} is not {what}{meant}")


def converted(file: ConfigFile, action: argparse.Action, value: object) -> object:
    """A value of a file as the flag would have given it."""
    said = f"{file.path}: {action.dest}"
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise CommandError(f"{said} must be true or false, got {value!r}")
        return value
    is_list = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
    if is_list:
        many = value if isinstance(value, list) else [value]
        return [one_of(said, action, item) for item in many]
    return one_of(said, action, value)


def one_of(said: str, action: argparse.Action, value: object) -> object:
    """A single value, of the flag's type and among its choices."""
    if isinstance(value, bool | dict | list):
        raise CommandError(f"{said} must be one value, got {value!r}")
    kind = action.type if callable(action.type) else str
    try:
        made: object = kind(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        name = getattr(kind, "__name__", "value")
        raise CommandError(f"{said} must be of type {name}, got {value!r}") from error
    if action.choices is not None and made not in action.choices:
        raise CommandError(f"{said} must be one of {', '.join(action.choices)}, got {value!r}")
    return made


def parse(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, argparse.ArgumentParser],
    argv: Sequence[str],
    file: ConfigFile,
    name: str,
) -> tuple[argparse.Namespace, dict[str, str]]:
    """The arguments of the command of that name, and where each of its values comes from."""
    check(file, commands)
    given = file.of(name)
    for leaf in leaves(commands[name]):
        for dest, action in flags_of(leaf).items():
            if action in leaf._actions:
                action.default = NotGiven(action)
                action.required = action.required and dest not in given
    arguments = parser.parse_args(argv)
    origins: dict[str, str] = {}
    known = flags_of(commands[name])
    for dest, value in vars(arguments).items():
        if isinstance(value, NotGiven):
            found, origins[dest] = fallback(dest, value, given, file)
            setattr(arguments, dest, found)
        elif dest in known:
            origins[dest] = "flag"
    return arguments, origins


def fallback(
    dest: str, flag: NotGiven, given: Mapping[str, object], file: ConfigFile
) -> tuple[object, str]:
    """The value of a flag that was left out, or of one that was repeated; where it comes from."""
    if flag:
        return list(flag), "flag"
    variable = next((v for v in ENVIRONMENT.get(dest, ()) if os.environ.get(v)), None)
    if variable is not None:
        return flag.default, f"environment {variable}"
    if dest in given:
        return converted(file, flag.action, given[dest]), str(file.path)
    return flag.default, "default"
