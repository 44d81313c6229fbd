"""The command line as a user meets it, through a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SOURCE = str(Path(__file__).resolve().parents[2] / "src")


def run(*arguments: str, stdin: bytes = b"", **settings: str) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("CHATGLM_MODEL", "NO_COLOR")},
        "PYTHONPATH": SOURCE,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", "chatglm", *arguments],
        input=stdin,
        capture_output=True,
        env=environment,
        timeout=120,
        check=False,
    )


def test_the_program_alone_shows_what_there_is() -> None:
    shown = run()
    assert shown.returncode == 0
    assert b"chatglm chat" in shown.stdout
    assert b"\033" not in shown.stdout
    assert "多轮对话" in run(CHATGLM_LANG="zh").stdout.decode()


@pytest.mark.parametrize("code", ["import chatglm", "from chatglm.cli import main; main([])"])
def test_neither_import_nor_help_brings_torch(code: str) -> None:
    check = f"{code}; import sys; assert not {{'torch', 'numpy'}} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_help_of_every_command_is_there() -> None:
    listed = run("--help").stdout.decode()
    for command in ("generate", "chat", "fill", "complete", "embed", "doctor"):
        assert command in listed
    assert b"--temperature" in run("generate", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (("generate", ""), b"", 2, "the prompt is empty"),
        (("generate", "-"), b"  \n", 2, "the prompt is empty"),
        (("generate",), b"\xff\xfe", 3, "standard input is not valid UTF-8 (byte 0: 0xff)"),
        (("generate", "hi", "--temperature", "-0.3"), b"", 2, "use 0 for greedy decoding"),
        (("generate", "hi", "--model", "./nowhere"), b"", 1, "no directory nowhere"),
        (("fill", "no blank"), b"", 2, "the text has no blank"),
        (("embed", "hi", "--model", "openai/x"), b"", 2, "embed needs the weights"),
    ],
)
def test_bad_input_is_one_sentence_and_no_traceback(
    arguments: tuple[str, ...], stdin: bytes, code: int, message: str
) -> None:
    done = run(*arguments, stdin=stdin)
    error = done.stderr.decode()
    assert message in error
    assert done.returncode == code
    assert error.count("\n") == 1
    assert done.stdout == b""


def test_debug_shows_the_traceback() -> None:
    done = run("generate", "hi", "--model", "./nowhere", "--debug")
    assert b"Traceback" in done.stderr


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(toy: Path) -> None:
    done = run("generate", "--model", str(toy), stdin=("今" * 100_000).encode())
    assert done.returncode == 1
    assert "tokens and the model's context holds 512" in done.stderr.decode()


def test_a_damaged_model_is_invalid_input(toy: Path, tmp_path: Path) -> None:
    for path in toy.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run("generate", "你好", "--model", str(tmp_path))
    assert done.returncode == 3
    assert done.stderr.decode().count("\n") == 1


def test_nothing_but_text_goes_to_a_pipe(toy: Path) -> None:
    flags = ("--model", str(toy), "--max-tokens", "12", "--temperature", "1", "--seed", "4")
    shown = run("generate", "你好", *flags, "-v")
    assert shown.returncode == 0, shown.stderr.decode()
    assert b"tokens/s" in shown.stderr
    assert b"tokens/s" not in shown.stdout
    piped = run("generate", *flags, stdin="你好".encode())
    dashed = run("generate", "-", *flags, stdin="你好\n".encode())
    whole = run("generate", "你好", *flags, "--no-stream")
    assert shown.stdout == piped.stdout == dashed.stdout == whole.stdout


def test_a_pipe_goes_before_the_words(toy: Path) -> None:
    flags = ("--model", str(toy), "--max-tokens", "8", "--temperature", "0")
    both = run("complete", "总结：", *flags, stdin="今天天气".encode())
    assert both.stdout == run("complete", "今天天气\n总结：", *flags).stdout


def test_json_is_one_object_with_raw_chinese(toy: Path) -> None:
    flags = ("--model", str(toy), "--max-tokens", "6", "--seed", "1", "--json")
    record = json.loads(run("generate", "你好", *flags).stdout)
    assert set(record) == {"text", "finish_reason", "usage"}
    assert record["usage"]["completion_tokens"] <= 6
    vectors = run("embed", "--model", str(toy), stdin="今天\n\n你好\n".encode())
    records = [json.loads(line) for line in vectors.stdout.splitlines()]
    assert [record["text"] for record in records] == ["今天", "你好"]
    assert "今天".encode() in vectors.stdout


def test_blanks_are_filled(toy: Path) -> None:
    done = run("fill", "今天[MASK]，适合出门。", "--model", str(toy), "--max-tokens", "4")
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert text.startswith("今天")
    assert text.endswith("，适合出门。\n")


def test_a_remote_model_without_a_key_says_what_to_set() -> None:
    pytest.importorskip("openai", reason="needs the extra `remote`")
    done = run("generate", "hi", "--model", "openai/ChatGPT", OPENAI_API_KEY="")
    assert b"OPENAI_API_KEY is not set" in done.stderr
    assert b"needs no key" in done.stderr


def test_a_remote_service_out_of_reach_has_its_own_exit_code() -> None:
    pytest.importorskip("openai", reason="needs the extra `remote`")
    done = run(
        *("generate", "hi", "--model", "openai/x"),
        OPENAI_API_KEY="k",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
    )
    assert done.returncode == 69
    assert b"cannot be reached" in done.stderr


def test_the_first_command_of_the_readme_answers() -> None:
    nano = Path(SOURCE) / "chatglm" / "assets" / "nano"
    if not list(nano.glob("*.safetensors")):
        pytest.skip("the embedded weights are not in this checkout")
    done = run("generate", "你好，我是一个程序员。", "--max-tokens", "32")
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.decode().strip()) > 1


def test_doctor_reports_as_json() -> None:
    report = json.loads(run("doctor", "--json").stdout)
    assert {"chatglm", "python", "packages", "processor", "gpu", "embedded model"} <= set(report)
    assert report["gpu"].startswith("compute capability" if torch.cuda.is_available() else "none")
