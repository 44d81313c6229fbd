"""Files of every kind as passages, and hostile ones as one sentence."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from chatglm.apps.knowledge.extract import UnreadableFile, passages_of
from chatglm.apps.knowledge.records import Passage
from chatglm.apps.knowledge.split import MOST, Block, passages, sentences

SHOP = "# 小店\n\n## 售后\n\n### 怎么退货？\n\n七天内可退。\n\n### 保修\n\n整机保修一年。\n"


def read(path: Path) -> list[Passage]:
    return list(passages_of(path))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_markdown_headings_that_ask_are_faq_and_others_are_paths(tmp_path: Path) -> None:
    asked, told = read(write(tmp_path / "a.md", SHOP))
    assert (asked.kind, asked.question, asked.text) == ("faq", "怎么退货？", "七天内可退。")
    assert (asked.path, asked.place, asked.tag) == (("小店", "售后"), "第 7 行", "售后")
    assert (told.kind, told.text, told.path) == ("text", "整机保修一年。", ("小店", "售后", "保修"))


def test_a_heading_in_code_is_code(tmp_path: Path) -> None:
    (only,) = read(write(tmp_path / "a.md", "# 安装\n\n```\n# 不是标题\nmake\n```\n"))
    assert "# 不是标题" in only.text
    assert only.path == ("安装",)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be"]
)
def test_encodings_are_recognized(tmp_path: Path, encoding: str) -> None:
    text = "退货说明\n\n七天无理由退货的条件是什么？请在签收后七天内申请，运费由买家承担。\n"
    (only,) = read(write(tmp_path / "a.txt", text.encode(encoding)))
    assert only.text.startswith("退货说明")
    assert "运费由买家承担" in only.text


def test_big5_is_recognized_by_its_common_characters(tmp_path: Path) -> None:
    text = "退貨說明：請在收到商品後七天內申請，我們會在三天內處理，運費由買家承擔。"
    (only,) = read(write(tmp_path / "a.txt", text.encode("big5")))
    assert only.text == text


def test_marked_questions_of_a_text_are_faq(tmp_path: Path) -> None:
    text = "问：怎么退货？\n答：点退货。\n寄回即可。\n\nQ: How long?\nA: Seven days.\n"
    first, second = read(write(tmp_path / "a.txt", text))
    assert (first.question, first.text) == ("怎么退货？", "点退货。\n寄回即可。")
    assert (second.question, second.text) == ("How long?", "Seven days.")


def test_html_keeps_what_is_seen_and_drops_the_rest(tmp_path: Path) -> None:
    page = (
        "<html><head><title>t</title><style>p{}</style></head><body><nav>菜单</nav>"
        "<h1>帮助</h1><h2>如何退货？</h2><p>点<b>退货</b>&amp;寄回。</p>"
        "<script>alert('x')</script><table><tr><td>运费</td><td>6元</td></tr></table>"
    )
    (only,) = read(write(tmp_path / "a.html", page))
    assert only.question == "如何退货？"
    assert "点退货&寄回。" in only.text
    assert "运费 6元" in only.text
    assert "菜单" not in only.text
    assert "alert" not in only.text


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_faq_tables_are_read_by_their_column_names(tmp_path: Path, mark: str) -> None:
    rows = [
        ("分类", "问题", "相似问题", "答案"),
        ("售后", "怎么退？", "退货流程|怎么退货", "点退货"),
    ]
    text = "\n".join(mark.join(row) for row in rows)
    (only,) = read(write(tmp_path / "a.csv", text.encode("gbk")))
    assert only.questions == ("怎么退？", "退货流程", "怎么退货")
    assert (only.text, only.tag, only.place) == ("点退货", "售后", "第 2 行")


def test_a_table_without_questions_is_lines_of_names_and_values(tmp_path: Path) -> None:
    (only,) = read(write(tmp_path / "a.csv", "型号,价格\nX1,199元\n"))
    assert only.text == "型号：X1\n价格：199元"


def test_excel_is_read_as_its_program_writes_it(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    for row in (("问题", "答案", "类别"), ("怎么退货？", "点退货", "售后"), ("价格？", 19.9, None)):
        sheet.append(row)
    book.create_sheet("空")
    book.save(tmp_path / "a.xlsx")
    first, second = read(tmp_path / "a.xlsx")
    assert (first.question, first.text, first.tag) == ("怎么退货？", "点退货", "售后")
    assert first.place == "表 1 第 2 行"
    assert second.text == "19.9"


def test_word_is_read_as_its_program_writes_it(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_heading("手册", 1)
    document.add_heading("如何开机？", 2)
    document.add_paragraph("长按电源键三秒。")
    document.add_heading("参数", 2)
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "重量", "1 公斤"
    document.save(tmp_path / "a.docx")
    asked, told = read(tmp_path / "a.docx")
    assert (asked.question, asked.text) == ("如何开机？", "长按电源键三秒。")
    assert (told.path, told.text) == (("手册", "参数"), "重量 | 1 公斤")


def pdf_bytes(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<</Type/Page/Parent 2 0 R/Contents {5 + 2 * i} 0 R"
            "/Resources<</Font<</F1 3 0 R>>>>/MediaBox[0 0 612 792]>>"
        )
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
    body, places = b"%PDF-1.4\n", []
    for i, text in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{i} 0 obj{text}endobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R>>"
    return body + f"{tail}\nstartxref\n{len(body)}\n%%EOF".encode()


def test_pdf_pages_are_places(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pdf", pdf_bytes("Returns within seven days.", "x" * 390))
    first, second = read(path)
    assert "Returns within seven days." in first.text
    assert (first.place, second.place) == ("第 1 页", "第 2 页")


def bomb(path: Path, part: str) -> Path:
    """A zip whose part unfolds to 300 MB of spaces."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(part, "w") as file,
    ):
        for _ in range(300):
            file.write(b" " * 1_000_000)
    return path


def entities(path: Path) -> Path:
    """A Word file of a few bytes that would grow to gigabytes when its entities unfold."""
    names = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 100}">' for i in range(10))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", f"<!DOCTYPE d [{names}]><d>&e9;</d>")
    return path


def sparse(path: Path) -> Path:
    """A file of 200 MB that takes no room."""
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200_000_000)
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "big.txt": (sparse, "has 200 MB and the limit is 100 MB"),
    "bomb.docx": (lambda p: bomb(p, "word/document.xml"), "zip bomb"),
    "bomb.xlsx": (lambda p: bomb(p, "xl/worksheets/sheet1.xml"), "zip bomb"),
    "laughs.docx": (entities, "declares XML entities"),
    "no.docx": (lambda p: write(p, b"PK\x03\x04 not a zip"), "is damaged"),
    "other.docx": (lambda p: write(p, b""), "is damaged"),
    "scan.pdf": (lambda p: write(p, pdf_bytes("", "")), "holds no text"),
    "no.pdf": (lambda p: write(p, b"%PDF-1.4 rubbish"), "cannot be read as PDF"),
    "open.csv": (lambda p: write(p, '问题,答案\n"没有合上,x\n'), "open.csv line"),
    "wide.csv": (lambda p: write(p, "问题,答案\na,b,c,d\n"), "has 4 columns"),
    "bad.jsonl": (lambda p: write(p, '{"question": "a", "answer": "b"}\n{'), "line 2 is no JSON"),
    "list.jsonl": (lambda p: write(p, "[1, 2]\n"), "is no object"),
    "deep.json": (lambda p: write(p, "[" * 100_000), "is no JSON"),
    "empty.md": (lambda p: write(p, "\n\n"), "holds no text"),
    "image.txt": (lambda p: write(p, bytes(range(256)) * 40), "is"),
    "half.txt": (lambda p: write(p, b"\xff\xfe\x00\xd8\x00"), "announces utf-16"),
    "what.exe": (lambda p: write(p, b"MZ"), "is of no known kind"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    make, message = HOSTILE[name]
    path = make(tmp_path / name)
    with pytest.raises(UnreadableFile, match=message) as told:
        read(path)
    assert name in str(told.value)
    assert "\n" not in str(told.value)


def test_a_part_that_lies_about_its_size_is_stopped_while_it_unfolds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatglm.apps.knowledge.extract import office

    path = tmp_path / "a.docx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", "<d>" + "x" * 500_000 + "</d>")
    monkeypatch.setattr(office, "MAX_UNPACKED", 100_000)
    with pytest.raises(UnreadableFile, match="unfolds"):
        read(path)


def test_sentences_joined_are_the_text() -> None:
    text = "一。二！三？四；“五。”six. seven 3.14 eight\n九"
    assert "".join(sentences(text)) == text
    assert sentences(text)[:5] == ["一。", "二！", "三？", "四；", "“五。”"]


def test_chunks_end_with_sentences_and_lose_nothing() -> None:
    text = "".join(f"这是第{i}句，说的是退货和运费的规定。" for i in range(100))
    chunks = list(passages([Block(text=text, path=("规定",), place="第 1 行")]))
    assert "".join(chunk.text for chunk in chunks) == text
    assert all(len(chunk.text) <= MOST for chunk in chunks)
    assert all(chunk.text.endswith("。") for chunk in chunks)
    assert {chunk.path for chunk in chunks} == {("规定",)}


def test_an_endless_sentence_is_cut_and_not_lost() -> None:
    text = "长" * (3 * MOST + 7)
    chunks = list(passages([Block(text=text)]))
    assert "".join(chunk.text for chunk in chunks) == text
