"""The READMEs' own commands, run as a new user would, in an empty directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))
SENTENCES = [
    "今天天气很好，我们去公园散步。",
    "明天会下雨，出门请带伞。",
    "程序员写代码，老师教学生。",
    "春天来了，花都开了，鸟儿在树上唱歌。",
]


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a language in a Markdown file."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S)


def commands(path: Path) -> list[str]:
    """The lines of a README's bash blocks."""
    return [line for block in blocks(path, "bash") for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the README's commands name."""
    folder = tmp_path_factory.mktemp("user")
    texts = [f"{i}、{a}{b}" for i in range(12) for a in SENTENCES for b in SENTENCES]
    turns = [
        [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
        for a in SENTENCES
        for b in SENTENCES
    ]
    for name, key, rows in (("corpus", "text", texts), ("chat", "messages", turns)):
        lines = (json.dumps({key: row}, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    shutil.copyfile(ROOT / "src/chatglm/assets/support/shop.csv", folder / "faq.csv")
    (folder / "recipe.toml").write_text(blocks(ROOT / "docs" / "training.md", "toml")[0], "utf-8")
    return folder


def in_place(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    scripts = Path(sys.executable).parent
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("CHATGLM_")},
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "CHATGLM_HOME": str(place / "home"),
        "PYTHONWARNINGS": "error",
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        command,
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_both_languages_give_the_same_commands() -> None:
    for language in ("bash", "sh", "python"):
        assert blocks(ENGLISH, language) == blocks(CHINESE, language)


@pytest.mark.parametrize("command", [c for c in commands(ENGLISH) if "chatglm " in f"{c} "])
def test_a_command_of_the_readme_works(place: Path, command: str) -> None:
    done = in_place(["bash", "-c", command], place)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).strip()


def test_the_python_of_the_readme_works(place: Path) -> None:
    for block in blocks(ENGLISH, "python"):
        done = in_place([sys.executable, "-c", block], place)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_what_the_documents_link_to_is_there() -> None:
    for path in (ENGLISH, CHINESE, *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"
