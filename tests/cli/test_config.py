"""Where the value of a flag comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chatglm.cli import main, make_parser, parsed

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the configuration file of a user whose environment says nothing."""
    for name in ("CHATGLM_MODEL", "CHATGLM_API_KEY", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CHATGLM_LANG", "en")
    path = tmp_path / "chatglm" / "config.toml"
    path.parent.mkdir()

    def save(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        return path

    return save


def origins(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, tuple[object, str]]:
    """What `chatglm config` says of each setting."""
    capsys.readouterr()
    assert main(["config", "--json", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    return {name: (said["value"], said["origin"]) for name, said in told.items()}


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert origins(capsys, "generate")["model"] == (None, "default")
    path = write('model = "of the file"\n')
    assert parsed(["generate", "你好"]).model == "of the file"
    assert origins(capsys, "generate")["model"] == ("of the file", str(path))
    monkeypatch.setenv("CHATGLM_MODEL", "of the environment")
    assert parsed(["generate", "你好"]).model == "of the environment"
    assert origins(capsys, "generate")["model"] == (
        "of the environment",
        "environment CHATGLM_MODEL",
    )
    flags = ("--model", "of the flag")
    assert parsed(["generate", "你好", *flags]).model == "of the flag"
    assert origins(capsys, "generate", *flags)["model"] == ("of the flag", "flag")


def test_a_table_is_for_one_command_and_every_kind_of_flag_can_be_set(write: Write) -> None:
    write(
        'temperature = 0.5\n[serve]\nport = 9000\ndrain-timeout = 5\nmodel = ["a=x", "b=y"]\n'
        'log_content = true\nserved-model-name = "z"\n[chat]\ntemperature = 0\nstop = "。"\n'
    )
    serve, chat = parsed(["serve", "--port", "9001"]), parsed(["chat"])
    assert (serve.port, serve.drain_timeout, serve.model) == (9001, 5.0, ["a=x", "b=y"])
    assert (serve.log_content, serve.served_model_name, serve.host) == (True, ["z"], "127.0.0.1")
    assert (chat.temperature, chat.stop) == (0.0, ["。"])
    assert parsed(["generate", "--temperature", "1", "好"]).temperature == 1.0
    assert parsed(["generate", "好"]).temperature == 0.5


def test_a_flag_that_may_be_repeated_takes_the_place_of_the_files(write: Write) -> None:
    write('[serve]\napi-key = ["one", "two"]\n')
    assert parsed(["serve"]).api_key == ["one", "two"]
    flags = ["--api-key", "three", "--api-key", "four"]
    assert parsed(["serve", *flags]).api_key == ["three", "four"]


def test_a_flag_that_is_demanded_may_be_in_the_file(write: Write) -> None:
    write('[compare]\nmodels = "nano,nano"\n')
    assert parsed(["compare", "你好"]).models == "nano,nano"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[serve]\nprot = 1", "[serve] prot is not a flag of serve; did you mean port?"),
        ("[sevre]\nport = 1", "[sevre] is not a command; did you mean serve?"),
        ("modell = 'x'", "modell is not a flag of any command; did you mean model?"),
        ("[serve]\nport = 'many'", "port must be of type int, got 'many'"),
        ("[serve]\nport = true", "port must be one value, got True"),
        ("[serve]\nlog-content = 'yes'", "log_content must be true or false, got 'yes'"),
        ("[serve]\nlog-format = 'xml'", "log_format must be one of text, json, got 'xml'"),
        ("[serve", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_name(
    write: Write, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = write(text)
    assert main(["serve"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert says in error


def test_another_file_can_be_named(write: Write, tmp_path: Path) -> None:
    write("[serve]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[serve]\nport = 2\n", encoding="utf-8")
    assert parsed(["serve", "--config", str(other)]).port == 2
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 2


def test_secrets_are_not_shown(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write('[serve]\napi-key = "sesame"\n')
    monkeypatch.setenv("HF_TOKEN", "sesame")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:sesame@proxy:8080")
    assert main(["config"]) == main(["config", "serve"]) == 0
    told = capsys.readouterr().out
    assert "sesame" not in told
    assert "***" in told


def test_without_a_file_all_is_as_the_flags_say(write: Write) -> None:
    plain = vars(make_parser().parse_args(["serve"]))
    serve = vars(parsed(["serve"]))
    assert serve == plain
