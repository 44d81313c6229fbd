"""`chatglm kb` and `chatglm support` as a user meets them, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
SHOP = SOURCE / "chatglm" / "assets" / "support" / "shop.csv"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the program with a home of this module's own."""
    home = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if k not in ("CHATGLM_MODEL", "NO_COLOR")}
    environment = {
        **kept,
        "PYTHONPATH": str(SOURCE),
        "CHATGLM_HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }

    def started(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "chatglm", *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env=environment,
            timeout=120,
            check=False,
        )

    return started


@pytest.fixture(scope="module")
def shop(run: Run) -> str:
    """The name of a base with the example shop in it."""
    assert run("kb", "create", "shop").returncode == 0
    added = run("kb", "add", "shop", str(SHOP))
    assert (added.returncode, added.stdout) == (0, "+ shop.csv\n"), added.stderr
    return "shop"


def test_a_base_is_filled_listed_searched_exported_and_removed(
    run: Run, shop: str, tmp_path: Path
) -> None:
    again = run("kb", "add", shop, str(SHOP))
    assert again.stdout == ""
    assert "1 unchanged" in again.stderr
    assert run("kb", "list").stdout == "shop\t1\t42\n"
    assert run("kb", "list", shop).stdout.startswith("shop.csv\t42\t")
    found = json.loads(run("kb", "search", shop, "退货", "运费", "-k", "2", "--json").stdout)
    assert found["hits"][0]["title"] == "退货的运费谁出？"
    assert len(found["hits"]) == 2
    shown = run("kb", "search", shop, "积分", "--way", "lexical", "--tag", "会员").stdout
    assert shown.startswith("[1]")
    assert "shop.csv 第 " in shown
    out = tmp_path / "out.jsonl"
    assert run("kb", "export", shop, "-o", str(out)).returncode == 0
    assert len(out.read_text("utf-8").splitlines()) == 42
    assert run("kb", "create", "copy").returncode == 0
    assert run("kb", "add", "copy", str(out)).returncode == 0
    assert run("kb", "remove", "copy", "out.jsonl").returncode == 0
    assert run("kb", "list", "copy").stdout == ""
    assert run("kb", "remove", "copy", "--all").returncode == 0
    assert run("kb", "list").stdout == "shop\t1\t42\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("kb", "add", "nowhere", "x.md"), 1, "make it by: chatglm kb create nowhere"),
        (("kb", "create", "../x"), 1, "is no name for a knowledge base"),
        (("kb", "create", "shop"), 1, "there is a knowledge base shop already"),
        (("kb", "add", "shop", "nothing.md"), 1, "there is no file nothing.md"),
        (("kb", "remove", "shop"), 2, "name documents to remove"),
        (("kb", "remove", "shop", "nothing.md"), 2, "there is no document nothing.md"),
        (("kb", "search", "shop", "x", "-k", "0"), 2, "-k must be at least 1"),
        (("support", "怎么退货"), 2, "name the base"),
        (("support", "--kb", "nowhere", "x"), 1, "there is no knowledge base nowhere"),
        (("support", "--kb", "shop", "x", "--threshold", "3"), 2, "--threshold must lie in 0 to 1"),
        (("support", "--kb", "shop", "rules", "--threshold", "x"), 2, "must be a number or auto"),
        (("support", "--kb", "shop", "x", "--webhook", "file:///x"), 1, "a webhook is"),
        (("support", "inbox", "--kb", "shop", "--show", "99"), 1, "there is no hand-over 99"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Run, shop: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run(*arguments)
    assert message in done.stderr
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_files_that_cannot_be_read_are_told_and_exit_3(run: Run, shop: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text('问题,答案\n"x,y\n', "utf-8")
    (tmp_path / "good.md").write_text("# 手册\n\n保修两年。\n", "utf-8")
    done = run("kb", "add", shop, str(tmp_path / "bad.csv"), str(tmp_path / "good.md"))
    assert done.returncode == 3
    assert done.stdout == "+ good.md\n"
    assert "! bad.csv line" in done.stderr
    assert run("kb", "remove", shop, "good.md").returncode == 0


def test_a_base_is_measured(run: Run, shop: str, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    answer = "没有发出的订单在详情页点“取消订单”即可"
    lines = [{"question": "拍错了想撤单", "answer": answer}, {"question": "火星", "answer": None}]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    found = json.loads(run("kb", "eval", shop, str(path), "--json").stdout)
    assert found["retrieval"]["joined"]["at_1"] == 1.0
    assert found["answers"]["right"] == found["answers"]["refused"] == 1
    assert "recall@5" in run("kb", "eval", shop, str(path)).stdout


def test_a_question_is_answered_with_its_source(run: Run, shop: str) -> None:
    shown = run("support", "--kb", shop, "退货的运费谁出")
    assert shown.returncode == 0
    answer, source = shown.stdout.splitlines()
    assert answer.endswith("[1]")
    assert source == "[1] 退货的运费谁出？ · shop.csv 第 15 行"
    record = json.loads(run("support", "--kb", shop, "退货的运费谁出", "--json").stdout)
    assert record["action"] == "answer"
    assert record["citations"][0]["quote"] in answer


def test_the_lines_of_a_pipe_are_one_talk(run: Run, shop: str) -> None:
    done = run("support", "--kb", shop, "--json", stdin="积分怎么用？\n那会过期吗？\n")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["session"] == second["session"]
    assert second["text"].startswith("当年获得的积分")


def test_a_person_at_the_desk_finds_answers_and_closes(run: Run, shop: str) -> None:
    asked = json.loads(run("support", "--kb", shop, "--session", "甲", "转人工", "--json").stdout)
    listed = run("support", "inbox", "--kb", shop).stdout
    assert "\topen\t" in listed
    number = str(asked["handover"])
    desk = ("support", "inbox", "--kb", shop, "--agent", "小王")
    assert run(*desk, "--reply", number, "我来帮您").returncode == 0
    assert "taken (小王)" in run("support", "inbox", "--kb", shop).stdout
    assert "agent: 我来帮您" in run("support", "inbox", "--kb", shop, "--show", number).stdout
    waiting = json.loads(run("support", "--kb", shop, "--session", "甲", "在吗", "--json").stdout)
    assert waiting["action"] == "person"
    assert run(*desk, "--close", number).returncode == 0
    events = [
        json.loads(line)["event"]
        for line in run("support", "log", "--kb", shop, "--session", "甲").stdout.splitlines()
    ]
    assert events[:3] == ["question", "handover", "reply"]
    assert events[-1] == "closed"


def test_topics_of_the_operator_are_read_from_a_file(run: Run, shop: str, tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_text("# 人工处理\n赔偿\n", "utf-8")
    flags = ("--kb", shop, "--topics", str(tmp_path / "topics.txt"), "--json")
    assert json.loads(run("support", *flags, "我要求赔偿").stdout)["reason"] == "topic"


def test_rules_are_kept_with_the_base(run: Run, shop: str, tmp_path: Path) -> None:
    topics = tmp_path / "topics.txt"
    topics.write_text("赔偿\n", "utf-8")
    where = ("support", "--kb", shop)
    kept = run("support", "rules", "--kb", shop, "--topics", str(topics), "--webhook", "http://a/b")
    assert json.loads(kept.stdout)["topics"] == ["赔偿"]
    assert json.loads(run(*where, "rules").stdout)["webhook"] == "http://a/b"
    assert (
        json.loads(run("support", "rules", "--kb", shop, "--webhook", "").stdout)["webhook"] == ""
    )
    assert json.loads(run(*where, "我要求赔偿", "--json").stdout)["reason"] == "topic"
    topics.write_text("", "utf-8")
    run(*where, "rules", "--topics", str(topics))
    assert json.loads(run(*where, "怎么退货", "--json").stdout)["action"] == "answer"


def test_a_threshold_holds_for_its_question_and_is_kept_by_rules_only(run: Run, shop: str) -> None:
    where = ("support", "--kb", shop, "--json")

    def action(*flags: str) -> str:
        return json.loads(run(*where, "怎么退货", *flags).stdout)["action"]

    rules = json.loads(run(*where, "rules").stdout)
    assert rules["threshold"] < 1
    assert action("--threshold", "1") == "handover"
    assert json.loads(run(*where, "rules").stdout) == rules
    assert action() == "answer"
    kept = json.loads(run(*where, "rules", "--threshold", "1").stdout)
    assert kept == {**rules, "threshold": 1}
    assert action() == "handover"
    assert action("--threshold", str(rules["threshold"])) == "answer"
    assert action("--threshold", "auto") == "answer"
    assert json.loads(run(*where, "rules", "--threshold", "auto").stdout) == rules
    assert action() == "answer"


def test_the_demo_answers_from_a_shop_and_a_bank(run: Run) -> None:
    demo = run("support", "demo", "--terminal", "满多少包邮")
    assert demo.returncode == 0, demo.stderr
    assert "59元包邮" in demo.stdout
    assert "demo-bank" in demo.stderr
    assert "1.45%" in run("support", "--kb", "demo-bank", "存一年利息多少").stdout
