"""JSON: the strings that people read; keys, numbers, layout and order stay."""

from __future__ import annotations

import json
import re

from chatglm.apps.text import has_letters
from chatglm.apps.text_file import InvalidText
from chatglm.apps.translate.formats.document import Document, Piece, Segment
from chatglm.apps.translate.unit import Unit

_STRING = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?')
_NOT_WORDS = re.compile(
    r"(?:[a-z0-9]+(?:[_./:@-][\w.-]+)+|#[0-9a-fA-F]{3,8}|[A-Z0-9]+(?:_[A-Z0-9]+)+|[a-z]+[A-Z]\w*"
    r"|\.{0,2}/\S*|[\w-]+\.(?:js|ts|css|html?|png|jpe?g|svg|json|md|txt|py)|[A-Za-z0-9+/]{40,}={0,2}"
    r"|\w+://\S+)"
)
_PLAIN_KEYS = frozenset(
    [
        "id",
        "key",
        "type",
        "lang",
        "locale",
        "language",
        "url",
        "href",
        "src",
        "icon",
        "class",
        "format",
    ]
)


def parse(text: str, name: str) -> Document:
    """The document of a JSON text; an InvalidText names the line where it is damaged."""
    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:
        place = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InvalidText(f"{name}{place}: no valid JSON ({what}); repair it first") from error
    except RecursionError as error:
        raise InvalidText(f"{name} is nested too deeply; flatten it first") from error
    pieces: list[Piece] = []
    at = 0
    key = ""
    for match in _STRING.finditer(text):
        value = json.loads(match[1])
        if match[2] is not None:
            key = value
            continue
        if not is_words(value, key):
            continue
        pieces.append(text[at : match.start()])
        pieces.append(
            Segment(
                unit=Unit(value),
                raw=match[1],
                write=writer(match[1]),
                line=text.count("\n", 0, match.start()) + 1,
            )
        )
        at = match.end()
    pieces.append(text[at:])
    return Document(tuple(piece for piece in pieces if piece))


def frame(text: str) -> list[str]:
    """The text around its string values; a ValueError where it is no JSON."""
    json.loads(text, parse_constant=refuse)
    return [_STRING.sub(lambda m: m[0] if m[2] is not None else '""', text)]


def refuse(word: str) -> float:
    """NaN and the infinities are no JSON."""
    raise ValueError(f"{word} is no JSON number")


def is_words(value: str, key: str) -> bool:
    """Whether a string is for people: no address, path, colour or identifier."""
    return (
        has_letters(value)
        and key.lower() not in _PLAIN_KEYS
        and not _NOT_WORDS.fullmatch(value.strip())
    )


class writer:
    """Spells a string as the document does: with or without `\\u` escapes."""

    def __init__(self, raw: str) -> None:
        self.is_ascii = raw.isascii() and "\\u" in raw

    def __call__(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=self.is_ascii)
