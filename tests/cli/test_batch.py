"""Files of requests, answered without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm.cli import main

pytest.importorskip("fastapi")


def request(name: str, **body: object) -> dict[str, object]:
    """A line that asks for a short reply."""
    chat = {"model": "toy", "messages": [{"role": "user", "content": name}], "max_tokens": 4}
    url = "/v1/chat/completions"
    return {"custom_id": name, "method": "POST", "url": url, "body": {**chat, "seed": 1, **body}}


def write(path: Path, lines: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"] for line in lines}


def text_of(response: dict[str, object]) -> str:
    return str(response["body"]["choices"][0]["message"]["content"])  # type: ignore[index]


def test_a_batch_goes_on_where_it_was_cut_off(toy: Path, tmp_path: Path) -> None:
    given, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [request(f"第{i}问") for i in range(9)]
    write(given, [*lines, request("refused", n=0)])
    command = ["batch", str(given), str(output), "--model", f"toy={toy}", "--max-num-seqs", "4"]
    assert main(command) == 1
    whole = read(output)
    assert [whole[f"第{i}问"]["status_code"] for i in range(9)] == [200] * 9
    assert whole["refused"]["status_code"] == 400

    kept = output.read_text("utf-8").splitlines(keepends=True)
    failed = json.loads(kept[5])
    failed["response"]["status_code"] = 503
    output.write_text("".join([*kept[:5], json.dumps(failed) + "\n", kept[6][:40]]), "utf-8")
    write(given, lines)
    assert main([*command, "--quiet"]) == 0
    again = read(output)
    assert [text_of(again[f"第{i}问"]) for i in range(9)] == [
        text_of(whole[f"第{i}问"]) for i in range(9)
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"custom_id": "a"', "line 2: the line"),
        (json.dumps(request("a")), "custom_id 'a' is that of line 1 too"),
        (json.dumps({**request("b"), "url": "/metrics"}), "POST /metrics is not served"),
        (json.dumps(request("b", stream=True)), "a batch has no streams"),
        ('{"custom_id": "b", "url": "/v1/completions"}', "line 2: body: Field required"),
    ],
)
def test_a_line_that_is_no_request_is_named_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    given = tmp_path / "in.jsonl"
    given.write_text(f"{json.dumps(request('a'))}\n{line}\n", encoding="utf-8")
    assert main(["batch", str(given), str(tmp_path / "out"), "--model", "none/there"]) == 3
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
