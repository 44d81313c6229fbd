"""Bases that are filled again and again, searched, calibrated and handed on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from chatglm.apps.knowledge import Filter, KnowledgeBase
from chatglm.apps.knowledge import base as base_module
from chatglm.apps.knowledge.measure import answers, measured, read_questions, recall
from chatglm.apps.knowledge.search import WAYS, Omit

SOURCE = Path(__file__).resolve().parents[3] / "src"
SHOP = SOURCE / "chatglm" / "assets" / "support" / "shop.csv"
BANK = SOURCE / "chatglm" / "assets" / "support" / "bank.csv"


@pytest.fixture
def base(location: str) -> Iterator[KnowledgeBase]:
    """An empty base in each database."""
    with KnowledgeBase.create(location) as made:
        yield made


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KnowledgeBase]:
    """The example shop's base."""
    with KnowledgeBase.create(str(tmp_path_factory.mktemp("shop") / "shop.sqlite")) as made:
        made.add([SHOP])
        yield made


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "文档"
    (folder / "子").mkdir(parents=True)
    (folder / "a.md").write_text("# 售后\n\n### 怎么退货？\n\n点退货。\n", "utf-8")
    (folder / "子" / "b.txt").write_text("运费由卖家承担。", "gbk")
    (folder / "c.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.md").write_text("看不见", "utf-8")
    return folder


def test_a_folder_is_added_again_and_only_what_changed_is_worked(
    base: KnowledgeBase, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    assert base.add([folder]).new == ["文档/a.md", "文档/子/b.txt"]
    ids = {document.source: document.id for document in base.documents()}
    again = base.add([folder])
    assert (again.new, again.changed, len(again.same)) == ([], [], 2)
    (folder / "a.md").write_text("### 怎么换货？\n\n点换货。\n", "utf-8")
    assert base.add([folder]).changed == ["文档/a.md"]
    later = {document.source: document.id for document in base.documents()}
    assert later["文档/子/b.txt"] == ids["文档/子/b.txt"]
    assert [chunk.question for chunk in base.chunks("文档/a.md")] == ["怎么换货？"]


def test_documents_whose_files_are_gone_are_forgotten_only_when_asked(
    base: KnowledgeBase, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    base.add([folder])
    (folder / "a.md").unlink()
    assert base.add([folder]).removed == []
    assert base.add([folder], prune=True).removed == ["文档/a.md"]
    assert [document.source for document in base.documents()] == ["文档/子/b.txt"]


def test_a_file_that_turned_unreadable_leaves_its_earlier_version(
    base: KnowledgeBase, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("问题,答案\n怎么退货？,点退货\n", "utf-8")
    base.add([path])
    path.write_text('问题,答案\n怎么退货？,"没有合上\n', "utf-8")
    report = base.add([path])
    assert [source for source, _ in report.failed] == ["a.csv"]
    assert [chunk.text for chunk in base.chunks()] == ["点退货"]


def test_one_bad_file_does_not_keep_the_others_out(base: KnowledgeBase, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 rubbish")
    report = base.add([folder])
    assert len(report.new) == 2
    assert [source for source, _ in report.failed] == ["文档/bad.pdf"]


def test_links_that_leave_the_folder_are_told_and_not_followed(
    base: KnowledgeBase, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    secret = tmp_path / "secret.txt"
    secret.write_text("canary", "utf-8")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.txt").write_text("canary", "utf-8")
    (folder / "link.txt").symlink_to(secret)
    (folder / "away").symlink_to(tmp_path / "elsewhere")
    (folder / "up.txt").symlink_to("../secret.txt")
    report = base.add([folder])
    assert {source for source, _ in report.failed} == {
        "文档/link.txt",
        "文档/away",
        "文档/up.txt",
    }
    assert all("canary" not in chunk.text for chunk in base.chunks())


@pytest.mark.parametrize(
    "name", ["../a.md", "/etc/a.md", "a\\b.md", "c:x.md", "a\x00.md", "a\n.md", "", ".md", " a.md"]
)
def test_names_of_uploads_are_nothing_but_names(base: KnowledgeBase, name: str) -> None:
    with pytest.raises(ValueError, match="no plain file name"):
        base.add_upload(name, b"text")
    assert base.documents() == []


def test_what_no_database_takes_is_taken_out(base: KnowledgeBase) -> None:
    line = '{"question": "怎\\u0000么\\ud800退货", "answer": "点\\u0000退货"}'
    assert base.add_upload("a.jsonl", line.encode()).new == ["a.jsonl"]
    assert [(chunk.question, chunk.text) for chunk in base.chunks()] == [
        ("怎么\ufffd退货", "点退货")
    ]


def test_an_upload_is_a_document_under_its_name(base: KnowledgeBase) -> None:
    assert base.add_upload("帮助.txt", "运费由卖家承担。".encode("gbk")).new == ["帮助.txt"]
    assert base.add_upload("帮助.txt", "运费由卖家承担。".encode("gbk")).same == ["帮助.txt"]
    assert [chunk.source for chunk in base.chunks()] == ["帮助.txt"]


def test_what_is_exported_makes_the_same_base_again(base: KnowledgeBase, tmp_path: Path) -> None:
    base.add([folder_of(tmp_path), SHOP])
    lines = [json.dumps(record, ensure_ascii=False) for record in base.export()]
    path = tmp_path / "out.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    with KnowledgeBase.create(str(tmp_path / "again.sqlite")) as again:
        again.add([path])

        def facts(one: KnowledgeBase) -> list[tuple[object, ...]]:
            return sorted((c.kind, c.questions, c.text, c.tag) for c in one.chunks())

        assert facts(again) == facts(base)
    assert "\\u" not in "".join(lines)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_finds_known_wordings_first(shop: KnowledgeBase, way: str) -> None:
    for chunk in shop.chunks():
        hits = shop.search(chunk.question, 3, way=way)  # type: ignore[arg-type]
        assert hits[0].chunk.id == chunk.id
        assert 1.0 + 1e-6 >= hits[0].score >= hits[-1].score >= 0.0


def test_traditional_wide_and_spelled_numbers_find_the_same(shop: KnowledgeBase) -> None:
    for question in ("七天無理由退貨要滿足什麼？", "７天无理由退货要满足什么"):
        assert shop.search(question, 1)[0].chunk.question.startswith("七天无理由退货")


def test_a_search_bounded_to_tags_stays_there(shop: KnowledgeBase) -> None:
    hits = shop.search("怎么退货", 10, only=Filter(tags=("会员",)))
    assert hits
    assert {hit.chunk.tag for hit in hits} == {"会员"}


def test_synonyms_of_the_operator_are_found(base: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("问题,答案\n怎么开机,按电源\n运费谁出,卖家\n颜色,红\n", "utf-8")
    base.add([tmp_path / "a.csv"])
    assert base.search("阿卡", way="lexical") == []
    base.use_synonyms([["阿卡", "运费"]])
    assert base.search("阿卡", way="lexical")[0].chunk.text == "卖家"


def test_what_is_omitted_is_not_found(shop: KnowledgeBase) -> None:
    chunk = next(iter(shop.chunks()))
    omit = Omit(chunk=chunk.id)
    hits = shop.searcher.search(chunk.question, 10, omit=omit)
    assert chunk.id not in {hit.chunk.id for hit in hits}
    part = Omit(chunk=chunk.id, wording=chunk.variants[0])
    seen = shop.searcher.search(chunk.variants[0], 50, omit=part)
    (found,) = [hit.chunk for hit in seen if hit.chunk.id == chunk.id]
    assert chunk.variants[0] not in found.questions


def test_the_threshold_is_found_from_the_base_s_own_questions(shop: KnowledgeBase) -> None:
    found = shop.store.setting("calibration")
    assert isinstance(found, dict)
    assert shop.threshold == found["threshold"]
    assert 0.2 <= shop.threshold <= 0.5
    assert found["answered_off_topic"] <= 0.02
    assert found["answered_without_entry"] <= 0.3
    assert found["answered_right"] > 4 * found["answered_wrong"]


def test_the_operator_s_threshold_holds_until_it_is_taken_back(shop: KnowledgeBase) -> None:
    found = shop.threshold
    shop.answer_from(0.9)
    with pytest.raises(ValueError, match=r"threshold must lie in 0 to 1, got -0\.1"):
        shop.answer_from(-0.1)
    assert (shop.threshold, shop.calibrated_threshold) == (0.9, found)
    shop.answer_from(None)
    assert shop.threshold == found


def test_foreign_questions_are_less_certain_than_own_ones(shop: KnowledgeBase) -> None:
    def certain(question: str) -> float:
        return shop.certainty(question, shop.search(question))

    assert certain("怎么取消订单") == 1.0
    assert certain("我想把订单取消掉") > shop.threshold
    for question in ("房贷可以提前还吗", "火星上有水吗", "定期存款利率多少", "write me a song"):
        assert certain(question) < shop.threshold


LETTERS = "甲乙丙丁戊己庚辛壬癸子丑"


class Letters:
    """A model that embeds a text by counting twelve letters."""

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        listed = [texts] if isinstance(texts, str) else texts
        return np.array([[3 + text.count(c) for c in LETTERS] for text in listed], np.float32)


def test_a_model_s_own_vectors_serve_and_are_remembered(location: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [c * 3 for c in LETTERS] + [a + b for a, b in pairwise(LETTERS)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), "utf-8")
    with KnowledgeBase.create(location, vectors="model", model=Letters()) as base:
        base.add([path])
    with KnowledgeBase(location, model=Letters()) as base:
        assert base.search("丙丙丙", 1, way="vector")[0].chunk.text == "丙丙丙"


def test_a_base_without_vectors_searches_by_terms_alone(location: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("运费由卖家承担。", "utf-8")
    with KnowledgeBase.create(location, vectors="none") as base:
        base.add([tmp_path / "a.txt"])
        assert base.search("运费")[0].ranks == {"lexical": 1}
        with pytest.raises(ValueError, match="no vectors"):
            base.search("运费", way="vector")


def test_a_base_is_made_once_and_opened_only_where_it_is(location: str, tmp_path: Path) -> None:
    KnowledgeBase.create(location).close()
    with pytest.raises(ValueError, match="already"):
        KnowledgeBase.create(location)
    with pytest.raises(FileNotFoundError, match="kb create"):
        KnowledgeBase(str(tmp_path / "other.sqlite"))
    with pytest.raises(ValueError, match="is no name"):
        KnowledgeBase("../../etc/passwd")


def test_a_deleted_base_is_gone(location: str) -> None:
    KnowledgeBase.create(location).delete()
    with KnowledgeBase.create(location) as again:
        assert again.documents() == []


def test_an_interruption_loses_no_batch(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "BATCH", 10)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"第{i}条"}) for i in range(35)), "utf-8")

    def stop(source: str, done: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        base.add([path], progress=stop)
    assert base.documents() == []
    kept = base.store.database.rows("SELECT id FROM chunk ORDER BY position")
    assert len(kept) == 20
    base.add([path])
    chunks = list(base.chunks())
    assert [chunk.text for chunk in chunks] == [f"第{i}条" for i in range(35)]
    assert [(chunk.id,) for chunk in chunks[:20]] == kept


WRITER = """
import sys
from chatglm.apps.knowledge import KnowledgeBase, base
base.BATCH = 5
from chatglm.apps.knowledge import base as module
module.KnowledgeBase.calibrate = lambda self: None  # what is tested is the writing
with KnowledgeBase(sys.argv[1]) as found:
    print("ready", flush=True)
    found.add([sys.argv[2]])
"""


def interfere(location: str, tmp_path: Path, num_kills: int, num_texts: int = 400) -> None:
    """Two processes write one base and are killed at moments of all kinds, then run to the end."""
    KnowledgeBase.create(location).close()
    texts = {name: [f"{name} 第{i}条 退货" for i in range(num_texts)] for name in ("one", "two")}
    for name, lines in texts.items():
        records = (json.dumps({"text": text}) for text in lines)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(records), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WRITER, location, str(tmp_path / f"{name}.jsonl")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)

    for kill in range(num_kills):
        writers = [start("one"), start("two")]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        try:
            writers[kill % 2].wait(0.01 * (kill % 7))
        except subprocess.TimeoutExpired:
            writers[kill % 2].send_signal(signal.SIGKILL)
        for writer in writers:
            writer.wait(60)
            assert writer.stdout is not None
            writer.stdout.close()
        with KnowledgeBase(location) as base:
            assert base.store.check() == "ok"
            for document in base.documents():
                name = document.source.removesuffix(".jsonl")
                assert [chunk.text for chunk in base.chunks(document.source)] == texts[name]
                hits = base.store.lexical(["退货"], 1000)
                assert {c.source for c in base.store.chunks([h for h, _ in hits])} <= {
                    d.source for d in base.documents()
                }
            base.remove([document.source for document in base.documents()])
    for name in texts:
        with start(name) as writer:
            assert writer.wait(60) == 0
    with KnowledgeBase(location) as base:
        assert {d.source: d.num_chunks for d in base.documents()} == {
            "one.jsonl": num_texts,
            "two.jsonl": num_texts,
        }
        base.store.tidy()
        assert base.store.database.rows("SELECT count(*) FROM chunk")[0][0] == 2 * num_texts


def test_two_writers_that_are_killed_leave_the_base_whole(location: str, tmp_path: Path) -> None:
    interfere(location, tmp_path, num_kills=3)


@pytest.mark.whole
def test_fifty_kills_of_two_writers_leave_the_base_whole(location: str, tmp_path: Path) -> None:
    interfere(location, tmp_path, num_kills=50)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"not a database at all, but long enough to look at" * 10)
    with pytest.raises(ValueError, match="cannot be opened as a SQLite file"):
        KnowledgeBase(str(path))
    assert path.read_bytes().startswith(b"not a database")


def test_the_file_has_the_settings_that_several_writers_need(tmp_path: Path) -> None:
    with KnowledgeBase.create(str(tmp_path / "a.sqlite")) as base:
        rows = base.store.database.rows
        assert rows("PRAGMA foreign_keys") == [(1,)]
        assert int(str(rows("PRAGMA busy_timeout")[0][0])) >= 10_000
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_searching_by_terms_and_their_vectors_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from chatglm.apps.knowledge import KnowledgeBase\n"
        f"base = KnowledgeBase.create({str(tmp_path / 'a.sqlite')!r}); base.add([{str(SHOP)!r}])\n"
        "assert base.search('怎么退货'); assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_recall_counts_what_it_says(tmp_path: Path, shop: KnowledgeBase) -> None:
    found = recall([1, 3, None, 2])
    assert (found.at_1, found.at_3, found.at_5) == (0.25, 0.75, 0.75)
    assert found.mrr == pytest.approx((1 + 1 / 3 + 1 / 2) / 4)
    path = tmp_path / "q.jsonl"
    chunk = next(iter(shop.chunks()))
    lines = [
        {"question": chunk.question, "answer": chunk.text, "kb": "shop"},
        {"question": "谁", "answer": None, "answerable": False},
        {"question": "x", "answer": "y", "kb": "bank"},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    asked = read_questions(path, "shop")
    assert len(asked) == 2
    assert measured(shop, asked, "joined") == [1]
    assert answers(chunk, chunk.text)


def test_the_shared_faq_bases_are_searched_as_well_as_is_said(shared: Path, tmp_path: Path) -> None:
    ranks: dict[str, list[int | None]] = {way: [] for way in WAYS}
    for name in ("ecommerce", "telecom", "software"):
        with KnowledgeBase.create(str(tmp_path / f"{name}.sqlite")) as base:
            base.add([shared / "data" / "faq" / f"{name}.jsonl"])
            asked = read_questions(shared / "data" / "faq" / "test_questions.jsonl", name)
            for way in WAYS:
                ranks[way] += measured(base, asked, way)
    best = {way: recall(found) for way, found in ranks.items()}
    assert best["joined"].mrr > max(best["lexical"].mrr, best["vector"].mrr)
    assert best["joined"].at_1 > 0.7
    assert best["joined"].at_3 > 0.9
