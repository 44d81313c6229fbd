"""Word and Excel files: XML in a zip, read with bounds on what it may unfold to."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.parsers import expat

from chatglm.apps.knowledge.extract import UnreadableFile
from chatglm.apps.knowledge.extract.tables import table
from chatglm.apps.knowledge.records import Passage
from chatglm.apps.knowledge.split import Block, passages

MAX_UNPACKED = 200_000_000
MAX_RATIO = 200
_HEADING = re.compile(r"(?:heading|标题|title)\s*(\d?)$", re.I)
_STEP = 1 << 16


def open_part(archive: zipfile.ZipFile, part: str, name: str) -> IO[bytes]:
    """A part of an office file, refused where it unfolds beyond measure."""
    try:
        info = archive.getinfo(part)
    except KeyError:
        raise UnreadableFile(
            f"{name} lacks {part}; is it what its ending says? save it again in its program"
        ) from None
    if info.file_size > MAX_UNPACKED or info.file_size > MAX_RATIO * max(info.compress_size, 4096):
        raise UnreadableFile(
            f"{name} unfolds from {info.compress_size:,} to {info.file_size:,} bytes; that is a "
            "zip bomb or damage, and it is not read"
        )
    return archive.open(info)


def open_archive(path: Path) -> zipfile.ZipFile:
    """The file as a zip of bounded size in all."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UnreadableFile(
            f"{path.name} is damaged ({error}); save it again in its program"
        ) from error
    if sum(info.file_size for info in archive.infolist()) > 2 * MAX_UNPACKED:
        archive.close()
        raise UnreadableFile(
            f"{path.name} unfolds beyond {2 * MAX_UNPACKED:,} bytes; that is a zip bomb or damage"
        )
    return archive


class Reader:
    """An XML part fed to callbacks; entities, the other kind of bomb, are refused."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.EntityDeclHandler = self.refuse
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.data

    def refuse(self, *_: object) -> None:
        """No entity is declared in an honest office file."""
        raise UnreadableFile(f"{self.name} declares XML entities, and is not read")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""

    def end(self, tag: str) -> None:
        """An element ends."""

    def data(self, text: str) -> None:
        """Text in an element."""

    def read(self, file: IO[bytes]) -> None:
        """Parse a file in pieces, and no more than the bound whatever its header said."""
        seen = 0
        try:
            while piece := file.read(_STEP):
                seen += len(piece)
                if seen > MAX_UNPACKED:
                    raise UnreadableFile(f"{self.name} unfolds beyond {MAX_UNPACKED:,} bytes")
                self.parser.Parse(piece, False)
            self.parser.Parse(b"", True)
        except (expat.ExpatError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise UnreadableFile(
                f"{self.name} is damaged ({error}); save it again in its program"
            ) from error


class Word(Reader):
    """Paragraphs and tables of a document, under its headings."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.blocks: list[Block] = []
        self.path: list[tuple[int, str]] = []
        self.pieces: list[str] = []
        self.cells: list[str] = []
        self.style = ""
        self.in_text = False
        self.table_depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """A paragraph, a row, a text begins."""
        tag = tag.rpartition(" ")[2]
        if tag == "p":
            self.style = ""
        elif tag == "pStyle":
            self.style = next((v for k, v in attributes.items() if k.endswith(" val")), "")
        elif tag == "t":
            self.in_text = True
        elif tag in ("br", "cr"):
            self.pieces.append("\n")
        elif tag == "tab":
            self.pieces.append("\t")
        elif tag == "tbl":
            self.table_depth += 1

    def end(self, tag: str) -> None:
        """A paragraph, a row, a text ends."""
        tag = tag.rpartition(" ")[2]
        if tag == "t":
            self.in_text = False
        elif tag == "p" and self.table_depth:
            self.pieces.append(" ")
        elif tag == "p":
            self.paragraph("".join(self.pieces).strip())
            self.pieces.clear()
        elif tag == "tc":
            self.cells.append(" ".join("".join(self.pieces).split()))
            self.pieces.clear()
        elif tag == "tr":
            self.add(" | ".join(self.cells))
            self.cells.clear()
        elif tag == "tbl":
            self.table_depth -= 1

    def data(self, text: str) -> None:
        """Text that is seen."""
        if self.in_text:
            self.pieces.append(text)

    def paragraph(self, text: str) -> None:
        """A heading or a paragraph."""
        level = self.level()
        if not level:
            self.add(text)
        elif text:
            self.path = [entry for entry in self.path if entry[0] < level]
            self.path.append((level, text))

    def level(self) -> int:
        """The depth of a heading's style (`Heading2`, `2` in Chinese Word); 0 for others."""
        if self.style.isdigit():
            return min(int(self.style), 9)
        found = _HEADING.match(self.style)
        return int(found.group(1) or 1) if found else 0

    def add(self, text: str) -> None:
        """A block at this place."""
        if text.strip(" |"):
            place = f"第 {len(self.blocks) + 1} 段"
            path = tuple(name for _, name in self.path)
            self.blocks.append(Block(text=text, path=path, place=place))


def docx(path: Path) -> Iterator[Passage]:
    """The passages of a Word document."""
    reader = Word(path.name)
    with open_archive(path) as archive, open_part(archive, "word/document.xml", path.name) as file:
        reader.read(file)
    return passages(reader.blocks)


class Strings(Reader):
    """The table of texts that the cells of a workbook point to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.texts: list[str] = []
        self.in_text = self.is_reading_aid = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An entry or a text begins."""
        tag = tag.rpartition(" ")[2]
        if tag == "si":
            self.texts.append("")
        self.in_text = tag == "t"
        if tag == "rPh":  # phonetic guides are no part of the text
            self.is_reading_aid = True

    def end(self, tag: str) -> None:
        """A text ends."""
        self.in_text = False
        if tag.endswith("rPh"):
            self.is_reading_aid = False

    def data(self, text: str) -> None:
        """Text of an entry."""
        if self.in_text and self.texts and not self.is_reading_aid:
            self.texts[-1] += text


class Sheet(Reader):
    """The rows of a sheet with their numbers."""

    def __init__(self, name: str, strings: list[str]) -> None:
        super().__init__(name)
        self.strings = strings
        self.rows: list[tuple[int, list[str]]] = []
        self.kind = self.value = self.place = ""
        self.takes = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """A row, a cell, a value begins."""
        tag = tag.rpartition(" ")[2]
        if tag == "row":
            number = attributes.get("r", "")
            self.rows.append((int(number) if number.isdigit() else len(self.rows) + 1, []))
        elif tag == "c":
            self.kind, self.place, self.value = attributes.get("t", ""), attributes.get("r", ""), ""
        self.takes = tag in ("v", "t")

    def end(self, tag: str) -> None:
        """A cell ends."""
        self.takes = False
        if tag.rpartition(" ")[2] == "c" and self.rows:
            row, at = self.rows[-1][1], column_number(self.place)
            if at is not None:
                row.extend("" for _ in range(at - len(row)))
            row.append(self.shown())

    def data(self, text: str) -> None:
        """A value."""
        if self.takes:
            self.value += text

    def shown(self) -> str:
        """The cell's text."""
        if self.kind != "s":
            return self.value
        number = int(self.value) if self.value.isdigit() else -1
        if not 0 <= number < len(self.strings):
            raise UnreadableFile(
                f"{self.name} cell {self.place} points to a text that is not there"
            )
        return self.strings[number]


def column_number(place: str) -> int | None:
    """The column of a cell such as `AB12`, from 0; None where it names none within 16,384."""
    letters = re.match(r"[A-Z]{1,3}", place)
    if letters is None:
        return None
    number = 0
    for letter in letters.group():
        number = number * 26 + ord(letter) - 64
    return number - 1 if number <= 16_384 else None


def xlsx(path: Path) -> Iterator[Passage]:
    """The entries of every sheet of a workbook."""
    with open_archive(path) as archive:
        strings = Strings(path.name)
        if "xl/sharedStrings.xml" in archive.namelist():
            with open_part(archive, "xl/sharedStrings.xml", path.name) as file:
                strings.read(file)
        parts = sorted(
            (part for part in archive.namelist() if re.fullmatch(r"xl/worksheets/\w+\.xml", part)),
            key=lambda part: (len(part), part),
        )
        if not parts:
            raise UnreadableFile(f"{path.name} holds no sheet; is it an Excel workbook?")
        for number, part in enumerate(parts, start=1):
            sheet = Sheet(path.name, strings.texts)
            with open_part(archive, part, path.name) as file:
                sheet.read(file)
            rows = ((f"表 {number} 第 {at} 行", row) for at, row in sheet.rows)
            yield from table(rows, path.name)
