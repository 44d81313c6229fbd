"""Files and pipes of text as people have them: bounded, in any of the usual encodings."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 64 << 20
"""A novel has 2 MB; more than this is a mistake, or wants to be split."""


class InvalidText(ValueError):
    """Input that cannot be worked on: which file or line, what is wrong, what to do."""


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A text and where it came from.

    encoding: what it was read in. newline: how its lines end.
    """

    text: str
    name: str
    encoding: str
    newline: str

    @property
    def note(self) -> str | None:
        """A remark where the text was not UTF-8."""
        if self.encoding in ("utf-8", "utf-8-sig"):
            return None
        shown = "GBK" if self.encoding == "gb18030" else self.encoding.upper()
        return f"{self.name} is {shown}, read as such; output is UTF-8"


def read_text(source: str | os.PathLike[str]) -> TextFile:
    """The text of a file, or of standard input for `-`; an InvalidText where there is none."""
    if os.fspath(source) == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        name, size = "standard input", len(data)
    else:
        path = Path(source)
        name = str(path)
        if path.is_dir():
            raise InvalidText(f"{name} is a directory; give a file")
        if not path.exists():
            raise FileNotFoundError(f"no file {name}; check its path")
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    if size > MAX_BYTES:
        raise InvalidText(
            f"{name} has more than {MAX_BYTES >> 20} MB ({size >> 20} MB seen); "
            "split it, e.g. with split -C 10m"
        )
    return decode(data, name)


def decode(data: bytes, name: str) -> TextFile:
    """Bytes as text: UTF-8, UTF-16 with a mark, or GBK (GB18030) where it reads as Chinese."""
    encoding = encoding_of(data, name)
    text = data.decode(encoding)
    if "\0" in text:
        raise InvalidText(f"{name} is no text (it has NUL bytes); give a text file")
    newline = "\r\n" if "\r\n" in text else "\n"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise InvalidText(f"{name} is empty; give some text")
    return TextFile(text=text, name=name, encoding=encoding, newline=newline)


def encoding_of(data: bytes, name: str) -> str:
    """The encoding in which the bytes are text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    encoding = "utf-8-sig" if data.startswith(b"\xef\xbb\xbf") else "utf-8"
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        if reads_as_chinese(data):
            return "gb18030"
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidText(
            f"{name} line {line}: byte 0x{data[error.start]:02x} is not UTF-8, and the text is not "
            "GBK; convert it first, e.g. iconv -f ENCODING -t UTF-8"
        ) from error
    return encoding


def reads_as_chinese(data: bytes) -> bool:
    """Whether bytes are GB18030 text: nine in ten of its wide characters are common ones."""
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    wide = [c for c in text if ord(c) > 127]
    common = 0
    for c in wide:
        try:
            c.encode("gb2312")
            common += 1
        except UnicodeEncodeError:
            continue
    return bool(wide) and common >= 0.9 * len(wide)


def write_text(path: str | os.PathLike[str], text: str, newline: str = "\n") -> None:
    """Write a text in UTF-8 so that a kill leaves the old file or the new one, whole."""
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent or ".", prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline=newline) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, target.stat().st_mode if target.exists() else 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
