"""The translation memory and the journal: what was done once is found again, kills included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.apps.scripted import Scripted

from chatglm.apps.translate import Memory, Translator
from chatglm.apps.translate.direction import Direction
from chatglm.apps.translate.journal import Journal
from chatglm.apps.translate.unit import Result

EN_ZH = Direction("en", "zh")


@pytest.fixture
def memory(location: str) -> Iterator[Memory]:
    """An empty memory in each database."""
    with closing(Memory(location)) as memory:
        yield memory


def test_the_same_text_is_found_in_its_direction_and_of_its_maker(memory: Memory) -> None:
    memory.add([("Good morning", "早上好")], EN_ZH, "model")
    found = memory.exact("Good morning", EN_ZH, "model")
    assert found is not None
    assert found.target == "早上好"
    assert memory.exact("Good morning", Direction("zh", "en"), "model") is None
    assert memory.exact("Good morning", EN_ZH, "another model") is None
    assert memory.exact("Good evening", EN_ZH, "model") is None


def test_people_go_before_models_and_new_before_old(memory: Memory) -> None:
    memory.add([("cat", "猫猫")], EN_ZH, "model")
    memory.add([("cat", "猫")], EN_ZH, "human")
    memory.add([("cat", "猫咪")], EN_ZH, "model")
    found = memory.exact("cat", EN_ZH, "model")
    assert found is not None
    assert found.target == "猫"
    assert len(memory) == 2


def test_other_numbers_are_put_in_where_it_is_clear_which_is_which(memory: Memory) -> None:
    memory.add([("3 of 5 rooms", "5 间房中的 3 间"), ("2 and 2", "2 和 2")], EN_ZH, "model")
    found = memory.exact("4 of 9 rooms", EN_ZH, "model")
    assert found is not None
    assert found.target == "9 间房中的 4 间"
    assert memory.exact("1 and 7", EN_ZH, "model") is None


def test_a_similar_text_is_found_by_how_similar_it_is(memory: Memory) -> None:
    pairs = [(f"Entry {word} of a long list", f"长列表中的 {word}") for word in "abcdefgh"]
    pairs.append(("Please restart the computer to finish the update.", "请重启电脑以完成更新。"))
    memory.add(pairs, EN_ZH, "model")
    text = "Please restart your computer to finish the update."
    found = memory.fuzzy(text, EN_ZH, "model", 0.9)
    assert found is not None
    assert found.target == "请重启电脑以完成更新。"
    assert 0.9 <= found.similarity < 1
    assert memory.fuzzy(text, EN_ZH, "model", 0.99) is None
    assert memory.fuzzy("!!", EN_ZH, "model", 0.5) is None
    assert memory.fuzzy('a "quoted" OR * text', EN_ZH, "model", 0.9) is None


def test_two_chinese_characters_are_enough_to_find_a_text(memory: Memory) -> None:
    memory.add([("退货运费", "return shipping")], Direction("zh", "en"), "model")
    assert memory.fuzzy("退货运费？", Direction("zh", "en"), "model", 0.8) is not None


def test_a_long_text_is_remembered_too(memory: Memory) -> None:
    text = " ".join(f"word{i * 7919 % 10007}" for i in range(600))
    memory.add([(text, "长文")], EN_ZH, "model")
    found = memory.exact(text, EN_ZH, "model")
    assert found is not None
    assert found.target == "长文"
    assert memory.fuzzy(f"{text} more", EN_ZH, "model", 0.9) is not None


def test_a_small_model_reuses_the_similar_and_a_large_one_is_shown_it(memory: Memory) -> None:
    known = ("Please restart the computer to finish the update.", "请重启电脑以完成更新。")
    memory.add([known], EN_ZH, "human")
    text = "Please restart your computer to finish the update."
    small = Translator(Scripted(lambda _: "x", small=True), memory=memory)
    assert small.translate(text) == known[1]
    large = Scripted(lambda _: "请重新启动您的电脑以完成更新。")
    assert Translator(large, memory=memory).translate(text) == "请重新启动您的电脑以完成更新。"
    assert known[1] in large.prompts[0]


def test_what_people_translated_is_known_in_both_directions(memory: Memory) -> None:
    model = Scripted(lambda _: pytest.fail("it was asked"))
    translator = Translator(model, memory=memory)
    translator.remember([("Good morning.", "早上好。")])
    assert translator.translate("Good morning.") == "早上好。"
    assert translator.translate("早上好。") == "Good morning."


def test_a_file_that_is_no_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(ValueError, match="cannot be opened as a SQLite file"):
        Memory(path)


def test_two_processes_write_one_memory(location: str) -> None:
    code = (
        "import sys; from chatglm.apps.translate import Memory\n"
        "from chatglm.apps.translate.direction import Direction\n"
        "m = Memory(sys.argv[1])\n"
        "for i in range(60): m.add([(f'{sys.argv[2]} text {i}', 'x')], Direction('en', 'zh'), 'm')"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, location, name]) for name in ("a", "b")
    ]
    assert [process.wait() for process in running] == [0, 0]
    with closing(Memory(location)) as memory:
        assert len(memory) == 120


def test_a_journal_forgets_a_torn_line_and_other_work(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    journal = Journal(output, {"text": "a"})
    journal.add("one", Result(text="一", origin="model"))
    journal.add("two", Result(text="二", origin="model"))
    journal.close(finished=False)
    with journal.path.open("a", encoding="utf-8") as file:
        file.write('{"source": "three", "te')
    again = Journal(output, {"text": "a"})
    assert {k: v.text for k, v in again.done.items()} == {"one": "一", "two": "二"}
    with pytest.raises(ValueError, match="in use by another process"):
        Journal(output, {"text": "a"})
    again.add("three", Result(text="三", origin="model"))
    again.close(finished=False)
    third = Journal(output, {"text": "a"})
    assert set(third.done) == {"one", "two", "three"}
    third.close(finished=False)
    other = Journal(output, {"text": "b"})
    assert other.done == {}
    other.close(finished=True)
    assert not other.path.exists()


SLOW = """
import sys, time
from chatglm.apps.translate import Translator
class Slow:
    name = "slow"
    def stream(self, text, *, system=None, **options):
        time.sleep(0.02)
        words = text.split("<<<\\n", 1)[1].removesuffix("\\n>>>")
        print("asked", flush=True)
        yield "译" + words.upper()
Translator(Slow()).translate_file(sys.argv[1], sys.argv[2])
"""


def test_a_killed_translation_goes_on_where_it_was(tmp_path: Path) -> None:
    source, output = tmp_path / "a.md", tmp_path / "b.md"
    lines = [f"This is paragraph {word}." for word in (a + b for a in "abcdefgh" for b in "mnopqr")]
    source.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-c", SLOW, str(source), str(output)]
    asked = 0
    for kill_after in (5, 9):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(kill_after):
            asked += bool(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        asked += len(process.stdout.read().split())
        process.wait()
        process.stdout.close()
        assert not output.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    asked += done.stdout.count("asked")
    # Only what was on its way at a kill is asked again: at most one reply a connection.
    assert len(lines) <= asked <= len(lines) + 2 * 9
    assert output.read_text("utf-8") == "\n\n".join(f"译{x.upper()}" for x in lines) + "\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.md", "b.md"]


def test_a_file_is_not_translated_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Hello there", encoding="utf-8")
    with pytest.raises(ValueError, match="would be overwritten"):
        Translator(Scripted(str)).translate_file(path, path)


def test_lines_keep_their_ends(tmp_path: Path) -> None:
    path, output = tmp_path / "a.srt", tmp_path / "b.srt"
    path.write_bytes(b"1\r\n00:00:01,000 --> 00:00:02,000\r\nHello\r\n")
    Translator(Scripted(lambda _: "你好")).translate_file(path, output)
    assert output.read_bytes() == "1\r\n00:00:01,000 --> 00:00:02,000\r\n你好\r\n".encode()


def test_nothing_waits_longer_than_it_must() -> None:
    model = Scripted(lambda p: time.sleep(0.05) or "译文")  # type: ignore[func-returns-value]
    assert Translator(model).translate_many(["One text", "Two texts"]) == ["译文", "译文"]
