"""The same promises of the store in SQLite and in PostgreSQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest

from chatglm.apps.knowledge.records import Filter, Passage
from chatglm.apps.knowledge.store import SqlStore, open_store
from chatglm.apps.knowledge.writer import is_gone, this_writer

RETURNS = Passage(
    kind="faq", question="怎么退货？", variants=("退货流程",), text="点退货。", tag="售后"
)
FREIGHT = Passage(kind="text", text="运费由卖家承担。", path=("手册", "运费"), place="第 3 页")
POINTS = Passage(kind="faq", question="积分有什么用？", text="积分可以抵现。", tag="会员")


def put(store: SqlStore, source: str, *passages: Passage, sha: str = "1") -> int:
    document, start = store.begin(source, sha, 1)
    store.extend(document, start, passages, np.eye(len(passages), 4, dtype=np.float32))
    store.publish(document)
    return document


def test_a_chunk_comes_back_as_it_went_in(store: SqlStore) -> None:
    put(store, "a.md", RETURNS, FREIGHT)
    first, second = store.all_chunks()
    for chunk, passage in ((first, RETURNS), (second, FREIGHT)):
        for name, value in vars(passage).items():
            assert getattr(chunk, name) == value
    assert (second.source, second.position) == ("a.md", 1)
    assert store.chunks([second.id, first.id]) == [second, first]


@pytest.mark.parametrize("word", ["退货", "运费", "积分"])
def test_words_of_two_characters_are_found(store: SqlStore, word: str) -> None:
    put(store, "a.md", RETURNS, FREIGHT, POINTS)
    (best, score), *_ = store.lexical([word], 3)
    assert word in store.chunks([best])[0].searchable
    assert score > 0


def test_readers_see_a_document_when_it_is_ready_and_not_before(store: SqlStore) -> None:
    document, start = store.begin("a.md", "1", 1)
    store.extend(document, start, [RETURNS], np.eye(1, 4, dtype=np.float32))
    reader = open_store(store.location)
    vector = np.eye(1, 4, dtype=np.float32)[0]
    before = reader.revision()
    assert reader.documents() == []
    assert reader.lexical(["退货"], 5) == []
    assert reader.dense(vector, 5) == []
    assert list(reader.all_chunks()) == []
    store.publish(document)
    assert [d.source for d in reader.documents()] == ["a.md"]
    assert len(reader.lexical(["退货"], 5)) == 1
    assert len(reader.dense(vector, 5)) == 1
    assert reader.revision() > before
    reader.close()


def test_a_new_version_takes_the_old_one_s_place(store: SqlStore) -> None:
    put(store, "a.md", RETURNS, FREIGHT)
    put(store, "a.md", POINTS, sha="2")
    assert [chunk.question for chunk in store.all_chunks()] == ["积分有什么用？"]
    assert store.lexical(["退货"], 5) == []
    assert store.frequencies(["退货", "积分"]) == {"退货": 0, "积分": 1}
    assert store.num_chunks() == 1


def test_removal_takes_chunks_terms_and_vectors_along(store: SqlStore) -> None:
    put(store, "a.md", RETURNS)
    put(store, "b.md", POINTS)
    assert store.remove(["a.md", "not there"]) == 1
    assert [d.source for d in store.documents()] == ["b.md"]
    assert store.lexical(["退货"], 5) == []
    assert store.database.rows("SELECT count(*) FROM vector")[0][0] == 1


def test_vectors_come_back_nearest_first(store: SqlStore) -> None:
    put(store, "a.md", RETURNS, FREIGHT, POINTS)
    vector = np.array([0.1, 0.9, 0.3, 0.0], np.float32)
    found = store.dense(vector / np.linalg.norm(vector), 2)
    titles = [chunk.title for chunk in store.chunks([chunk for chunk, _ in found])]
    assert titles == ["运费", "积分有什么用？"]
    assert found[0][1] > found[1][1] > 0


@pytest.mark.parametrize(
    ("only", "titles"),
    [
        (Filter(tags=("会员",)), {"积分有什么用？"}),
        (Filter(kinds=("text",)), {"运费"}),
        (Filter(sources=("b.md",)), {"怎么退货？"}),
        (Filter(sources=("b.md",), tags=("会员",)), set()),
    ],
)
def test_filters_bound_both_ways_of_search(store: SqlStore, only: Filter, titles: set[str]) -> None:
    put(store, "a.md", FREIGHT, POINTS)
    put(store, "b.md", RETURNS)
    by_terms = store.lexical(["退货", "运费", "积分"], 5, only)
    by_vector = store.dense(np.ones(4, np.float32) / 2, 5, only)
    for found in (by_terms, by_vector):
        assert {chunk.title for chunk in store.chunks([c for c, _ in found])} == titles


def test_settings_keep_whatever_json_can_say(store: SqlStore) -> None:
    value = {"数": [1, 2.5, None], "文": "甲'乙\"；--"}
    store.set("one", 1)
    store.set("one", value)
    assert store.setting("one") == value
    assert store.setting("other") is None


def test_what_looks_like_sql_or_a_query_is_only_text(store: SqlStore) -> None:
    odd = Passage(kind="text", text='\'; DROP TABLE chunk; -- OR NEAR(a b) "x" * ? %s {0}')
    put(store, "'; DROP TABLE document; --", odd)
    assert next(iter(store.all_chunks())).text == odd.text
    assert len(store.lexical(["drop", "or", "near", "chunk"], 5)) == 1


def test_an_interrupted_document_is_gone_on_with(store: SqlStore) -> None:
    document, _ = store.begin("a.md", "1", 1)
    store.extend(document, 0, [RETURNS, FREIGHT], None)
    store.release(document)
    assert store.begin("a.md", "1", 1) == (document, 2)
    store.extend(document, 2, [POINTS], None)
    store.publish(document)
    assert [chunk.position for chunk in store.all_chunks()] == [0, 1, 2]


def test_an_interrupted_document_of_another_version_is_begun_anew(store: SqlStore) -> None:
    document, _ = store.begin("a.md", "1", 1)
    store.extend(document, 0, [RETURNS], None)
    store.release(document)
    again, start = store.begin("a.md", "2", 1)
    assert again != document
    assert start == 0
    assert store.database.rows("SELECT count(*) FROM chunk")[0][0] == 0


def test_a_living_writer_is_left_alone_and_a_gone_one_is_tidied_up(store: SqlStore) -> None:
    mine, _ = store.begin("a.md", "1", 1)
    store.extend(mine, 0, [RETURNS], None)
    assert store.tidy() == 0
    store.release(mine)
    assert store.tidy() == 1
    assert store.database.rows("SELECT count(*) FROM chunk")[0][0] == 0
    assert not is_gone(this_writer())


def test_threads_write_one_base_without_loss(store: SqlStore) -> None:
    def write(name: str) -> None:
        for i in range(8):
            put(store, f"{name}-{i}.md", RETURNS)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.documents()) == 24
    assert store.num_chunks() == 24
    assert store.check() == "ok"


def test_both_databases_rank_alike(postgres: str, tmp_path: object) -> None:
    from chatglm.apps.knowledge.search import Searcher
    from chatglm.apps.knowledge.vectors import TermVectors, passage_vectors

    passages = [
        Passage(kind="faq", question=f"{what}{how}", text=f"{what}{how}的说明，请看第{i}节。")
        for i, (what, how) in enumerate(
            (what, how)
            for what in ("退货", "运费", "积分", "会员", "发票", "优惠券", "地址", "快递")
            for how in ("怎么办理", "需要多久", "要多少钱", "可以取消吗")
        )
    ]
    found = []
    for place in (f"{tmp_path}/alike.sqlite", f"{postgres}#alike"):
        one = open_store(place)
        document, _ = one.begin("a", "1", 1)
        one.extend(document, 0, passages, passage_vectors(passages, TermVectors().embed))
        one.publish(document)
        searcher = Searcher(one, TermVectors())
        found.append(
            [
                [(hit.chunk.question, round(hit.score, 3)) for hit in searcher.search(question, 5)]
                for question in ("退货多久", "发票要钱吗", "怎么取消会员", "快递")
            ]
        )
        one.close()
    assert found[0] == found[1]


OPENER = """
import sys
from contextlib import closing
from chatglm.apps.knowledge.store import open_store
from chatglm.apps.support.desk import Desk
from chatglm.apps.translate import Memory
from chatglm.apps.translate.direction import Direction
print("ready", flush=True)
for place in map(str.strip, sys.stdin):
    with (
        closing(open_store(place)) as store,
        closing(Desk(place)) as desk,
        closing(Memory(place)) as memory,
    ):
        store.set(sys.argv[1], 1)
        desk.session(sys.argv[1])
        memory.add([(sys.argv[1], "x")], Direction("en", "zh"), "model")
    print("done", flush=True)
"""


def test_many_processes_make_and_open_one_base_at_once(location: str) -> None:
    names = [f"p{i}" for i in range(6)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, name], stdin=PIPE, stdout=PIPE, text=True, bufsize=1
        )
        for name in names
    ]
    pipes = [(p.stdin, p.stdout) for p in running if p.stdin is not None and p.stdout is not None]
    places = [sibling(location, number) for number in range(12)]
    assert [answer.readline() for _, answer in pipes] == ["ready\n"] * 6
    for place in places:  # nothing is there yet, and all come at once
        for order, _ in pipes:
            order.write(f"{place}\n")
        assert [answer.readline() for _, answer in pipes] == ["done\n"] * 6
    for order, answer in pipes:
        order.close()
        answer.close()
    assert [process.wait() for process in running] == [0] * 6
    for place in places:
        with closing(open_store(place)) as store:
            assert store.check() == "ok"
            for table in ("setting", "session", "unit"):
                assert store.database.rows(f"SELECT count(*) FROM {table}") == [(6,)]
            store.database.drop()


def sibling(location: str, number: int) -> str:
    """Another place beside one."""
    if location.endswith(".sqlite"):
        return f"{location.removesuffix('.sqlite')}{number}.sqlite"
    return f"{location}_{number}"


def test_a_base_that_another_process_holds_is_called_busy_and_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatglm.apps.knowledge.sqlite.BUSY_SECONDS", 0.05)
    path = str(tmp_path / "a.sqlite")
    with closing(open_store(path)) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(TimeoutError, match=r"busy.*nothing of the base is damaged"):
                store.set("a", 1)
            with pytest.raises(TimeoutError, match="busy"), store.database.transaction():
                pytest.fail("two writers at once")
            with pytest.raises(TimeoutError, match="busy"):
                open_store(path)
            other.execute("COMMIT")
        store.set("a", 1)
        assert store.setting("a") == 1


def test_a_base_that_another_process_is_just_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")  # no log yet: SQLite refuses the change to it at once
        waits: list[float] = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr("chatglm.apps.knowledge.sqlite.time.sleep", wait)
        with closing(open_store(str(path))) as store:
            assert store.check() == "ok"
        assert len(waits) == 3
