"""How a server begins: while its models load, over HTTPS, with adapters beside their base."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
import torch
from safetensors.torch import save_file
from tests.serve import wire
from tests.serve.conftest import Running, free_port

from chatglm import ChatGLM
from chatglm.cli import main
from chatglm.quantization import linear
from chatglm.serve.app import create_app
from chatglm.serve.http import listen, make_server
from chatglm.serve.settings import Settings

HELLO = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 8, "temperature": 0}


def lora(folder: Path, base: Path, seed: int) -> Path:
    """A random LoRA adapter in PEFT's format for the tiny model's query and value projections."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    width = config["hidden_size"]
    folder.mkdir()
    table = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["q_proj"]}
    table["base_model_name_or_path"] = str(base)
    (folder / "adapter_config.json").write_text(json.dumps(table), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{prefix}.lora_A.weight": torch.randn(4, width, generator=generator),
        f"{prefix}.lora_B.weight": torch.randn(width, 4, generator=generator),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_is_a_model_over_the_weights_of_its_base(
    launch: Callable[..., Running], toy: Path, tmp_path: Path
) -> None:
    shops = [lora(tmp_path / name, toy, seed) for seed, name in enumerate(("a", "b"))]
    flags = [flag for shop in shops for flag in ("--adapter", f"{shop.name}={shop}")]
    running = launch("--model", f"toy={toy}", *flags)
    told = running.get("/v1/models").json()["data"]
    assert [model["id"] for model in told] == ["toy", "a", "b"]

    def score(name: str) -> list[float]:
        body = {"model": name, "prompt": "今天天气", "echo": True, "logprobs": 0, "max_tokens": 0}
        answer = running.post("/v1/completions", body).json()
        return answer["choices"][0]["logprobs"]["token_logprobs"][1:]  # type: ignore[no-any-return]

    for name, folder in (("toy", None), *((shop.name, shop) for shop in shops)):
        alone = ChatGLM.from_pretrained(toy, adapter=folder)
        assert isinstance(alone, ChatGLM)
        ids = alone.tokenizer.encode("今天天气")
        logs = alone.logits(ids).log_softmax(-1)
        own = [logs[i, token].item() for i, token in enumerate(ids[1:])]
        assert score(name) == pytest.approx(own, abs=1e-3)
        vector = running.post("/v1/embeddings", {"model": name, "input": "你好"}).json()["data"][0]
        assert vector["embedding"] == pytest.approx(alone.embed("你好")[0].tolist(), abs=1e-4)
    assert len(running.get("/metrics").text.split('num_requests_running{model_name="')) == 2


def test_an_adapter_shares_its_bases_memory(toy: Path, tmp_path: Path) -> None:
    model = ChatGLM.from_pretrained(toy)
    assert isinstance(model, ChatGLM)
    model.add_adapter("shop", lora(tmp_path / "shop", toy, 1))
    shop = model.with_adapter("shop")
    assert shop.engine is model.engine
    own = {p.data_ptr() for p in model.transformer.parameters()}
    added = [p for p in shop.transformer.parameters() if p.data_ptr() not in own]
    assert sum(p.numel() for p in added) < 1000
    assert shop.generate("你好", seed=1, max_new_tokens=12) == model.generate(
        "你好", seed=1, max_new_tokens=12, adapter="shop"
    )
    with pytest.raises(ValueError, match="there is no adapter 'none'; known are: shop"):
        model.with_adapter("none")


def test_health_says_503_until_the_models_are_there(toy: Path) -> None:
    go_on = threading.Event()

    def load() -> dict[str, ChatGLM]:
        go_on.wait(60)
        model = ChatGLM.from_pretrained(toy)
        assert isinstance(model, ChatGLM)
        return {"toy": model}

    settings = Settings(port=free_port())
    server = make_server(create_app(load, settings), settings)
    thread = threading.Thread(target=server.run, args=(listen(settings),))
    thread.start()
    try:

        async def before() -> None:
            health = await wire.ask(settings.port, "/health", None, "GET")
            assert (health.status, health.json) == (503, {"status": "loading"})
            chat = await wire.ask(settings.port, "/v1/chat/completions", HELLO)
            assert chat.status == 503
            assert chat.json["error"]["code"] == "loading"  # type: ignore[index]
            assert int(chat.headers["retry-after"]) > 0

        wire.run(before())
        go_on.set()

        async def after() -> None:
            while (await wire.ask(settings.port, "/health", None, "GET")).status != 200:
                pass
            assert (await wire.ask(settings.port, "/v1/chat/completions", HELLO)).status == 200

        wire.run(after())
    finally:
        go_on.set()
        server.should_exit = True
        thread.join(30)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATGLM_LANG", "en")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert main(["serve", "--port", str(free_port()), "--model", str(tmp_path)]) == 3
    assert "config.json" in capsys.readouterr().err


def test_no_memory_while_weights_are_quantized_ends_the_server_with_its_exit_code(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory for this allocation")

    monkeypatch.setenv("CHATGLM_LANG", "en")
    monkeypatch.setattr(linear, "quantize", no_room)
    flags = ["--port", str(free_port()), "--model", str(toy), "--quantize", "int8"]
    assert main(["serve", *flags]) == 5
    assert "out of memory" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_in_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATGLM_LANG", "en")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "give another --port" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_with_a_certificate_the_server_speaks_https(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATGLM_LANG", "en")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    model = ChatGLM.from_pretrained(toy)
    assert isinstance(model, ChatGLM)
    settings = Settings(port=free_port(), ssl_certfile=certificate, ssl_keyfile=key)
    server = make_server(create_app({"toy": model}, settings), settings)
    thread = threading.Thread(target=server.run, args=(listen(settings),))
    thread.start()
    try:
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=trusted, base_url=settings.url) as client:
            answer = client.post("/v1/chat/completions", json=HELLO, timeout=60)
        assert answer.status_code == 200
        assert settings.url.startswith("https://127.0.0.1:")
    finally:
        server.should_exit = True
        thread.join(30)
    assert main(["serve", "--ssl-keyfile", str(key)]) == 2
    assert "--ssl-certfile too" in capsys.readouterr().err
    assert main(["serve", "--ssl-certfile", str(key)]) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_the_cache_has_the_room_that_it_is_given(launch: Callable[..., Running], toy: Path) -> None:
    flags = ["--max-model-len", "64", "--max-num-tokens", "96", "--kv-dtype", "int8"]
    running = launch("--model", f"toy={toy}", *flags)
    assert "up to 96 tokens are kept" in running.log.read_text("utf-8")
    body = {"prompt": [[7] * 40, [8] * 40, [9] * 40], "max_tokens": 20, "temperature": 0}
    answer = running.post("/v1/completions", body).json()  # each needs most of it
    assert answer["usage"]["completion_tokens"] == 60
