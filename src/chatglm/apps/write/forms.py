"""Forms of writing: TOML files of the package and the user's own."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Literal, cast

from chatglm.apps.knowledge.home import home
from chatglm.apps.text_file import InvalidText

Kind = Literal["prose", "verse", "couplet", "rewrite"]
KINDS = ("prose", "verse", "couplet", "rewrite")


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of writing.

    name: what it is called by, beside `aliases`. title: in Chinese. general, tuned: the request to
    a model that follows instructions, and to one that was fine-tuned on a few; with {topic},
    {length}, {text}. onward: the request to go on from {text}. length: characters.
    parts: what its sections are about where the model makes no outline. frame: fixed text around
    {body}, with fields of its own that have `defaults`. heading: the first line of a verse.
    patterns: of a verse, each a list of lines of 平仄中韵叶.
    """

    name: str
    title: str
    kind: Kind
    general: str
    aliases: tuple[str, ...] = ()
    tuned: str = ""
    onward: str = ""
    length: int = 300
    parts: tuple[str, ...] = ()
    frame: str = "{body}"
    defaults: Mapping[str, str] | None = None
    heading: str = ""
    patterns: tuple[tuple[str, ...], ...] = ()


def read_form(text: str, name: str) -> Form:
    """The form that a TOML text describes; an InvalidText says what is wrong with it."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidText(f"{name}: no valid TOML ({error}); see docs/write.md") from error
    known = {field.name for field in fields(Form)}
    if unknown := sorted(table.keys() - known):
        raise InvalidText(
            f"{name}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    for key in ("name", "title", "kind", "general"):
        if not isinstance(table.get(key), str) or not table[key].strip():
            raise InvalidText(f"{name}: {key!r} is missing; give it as a string")
    if table["kind"] not in KINDS:
        raise InvalidText(f"{name}: kind must be one of {', '.join(KINDS)}, got {table['kind']!r}")
    if not isinstance(table.get("length", 1), int) or not 1 <= table.get("length", 1) <= 20000:
        raise InvalidText(f"{name}: length must lie between 1 and 20000, got {table['length']!r}")
    patterns = table.get("patterns", [])
    check_patterns(patterns, table["kind"], name)
    if "{body}" not in table.get("frame", "{body}"):
        raise InvalidText(f"{name}: frame has no {{body}}; mark where the text goes")
    table["patterns"] = tuple(tuple(lines) for lines in patterns)
    for key in ("aliases", "parts"):
        table[key] = tuple(map(str, table.get(key, ())))
    return Form(**cast("dict[str, object]", table))  # type: ignore[arg-type]


def check_patterns(patterns: object, kind: str, name: str) -> None:
    """An InvalidText where a verse's patterns are none."""
    if kind == "verse" and not patterns:
        raise InvalidText(
            f"{name}: patterns is missing; give lists of lines such as 中平中仄仄平韵"
        )
    if not isinstance(patterns, list):
        raise InvalidText(f"{name}: patterns must be a list of lists of lines")
    for lines in patterns:
        for line in lines if isinstance(lines, list) else [None]:
            if not isinstance(line, str) or not re.fullmatch(r"[平仄中韵叶]{1,20}", line):
                raise InvalidText(
                    f"{name}: a line must be of 平, 仄, 中, 韵 and 叶, at most 20, got {line!r}"
                )


def all_forms(folder: Path | None = None) -> dict[str, Form]:
    """Every form by its name: the package's, and over them those in the user's folder (None:
    `$CHATGLM_HOME/forms`).
    """
    found: dict[str, Form] = {}
    own = folder if folder is not None else home() / "forms"
    package = files("chatglm.apps.write").joinpath("forms")
    entries = [e for e in package.iterdir() if e.name.endswith(".toml")]
    entries += sorted(own.glob("*.toml")) if own.is_dir() else []
    for entry in entries:
        form = read_form(entry.read_text("utf-8"), str(entry))
        found[form.name] = form
    return dict(sorted(found.items()))


def find_form(name: str, forms: Mapping[str, Form]) -> Form:
    """The form of a name, an alias or a Chinese title."""
    wanted = name.strip().lower()
    for form in forms.values():
        if wanted in (form.name, form.title, *form.aliases):
            return form
    raise ValueError(f"no form {name!r}; there are {', '.join(forms)}")
