"""The text of bytes whose encoding nobody told."""

from __future__ import annotations

import codecs
from pathlib import Path

from chatglm.apps.knowledge.extract import UnreadableFile

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_of(path: Path) -> str:
    """A file's text: by its mark, else UTF-8, UTF-16, GB18030 (GBK is part of it) or Big5."""
    data = path.read_bytes()
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return decoded(data, encoding, path.name)
    zeros = data[:4096].count(0)
    if zeros > len(data[:4096]) // 8:
        even = data[:4096:2].count(0)
        return decoded(data, "utf-16-be" if even > zeros / 2 else "utf-16-le", path.name)
    try:
        return checked(data.decode("utf-8"), path.name)
    except UnicodeDecodeError:
        pass
    readings = []
    for encoding in ("gb18030", "big5", "utf-16-le", "utf-16-be"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        readings.append((likeliness(text), encoding, text))
    if not readings:
        raise UnreadableFile(
            f"{path.name} is in no known encoding (UTF-8, UTF-16, GB18030, Big5); save it as UTF-8"
        )
    return checked(max(readings, key=lambda reading: reading[0])[2], path.name)


def decoded(data: bytes, encoding: str, name: str) -> str:
    """The text in an encoding that the file itself announces."""
    try:
        return checked(data.decode(encoding), name)
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            f"{name} announces {encoding} and is broken at byte {error.start}; save it as UTF-8"
        ) from error


def checked(text: str, name: str) -> str:
    """The text, where it is one: zeros and a crowd of control characters say it is not."""
    controls = sum(c < " " and c not in "\t\n\r\f\v\x1b" for c in text[:4096])
    if controls > len(text[:4096]) // 100 + 1:
        raise UnreadableFile(f"{name} is not text; is its ending right?")
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


# What a Chinese text cannot be without; a wrong encoding gives rare characters instead.
_COMMON = frozenset(
    "的一是不了在有人我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
    "這個們來為國說時會過發後裡種經麼學現當沒動還進樣對問請電話買賣貨訂單"
    "日月年退货款单订服务请问"
)


def likeliness(text: str) -> float:
    """The share of the most common characters among those beyond ASCII."""
    beyond = [c for c in text[:20_000] if c > "\x7f"]
    return sum(c in _COMMON for c in beyond) / len(beyond) if beyond else 0.0
