"""The models that `chatglm serve` is told to serve, loaded as its flags say."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from chatglm.cli.console import note
from chatglm.cli.options import INVALID_INPUT, CommandError, use_few_threads
from chatglm.generation.chat import ChatGLM
from chatglm.serve.settings import Settings


def split_name(text: str) -> tuple[str | None, str]:
    """`NAME=PATH` as name and path; None where no name is given."""
    name, sign, path = text.partition("=")
    return (name, path) if sign and name and path and "/" not in name else (None, text)


def load_models(arguments: argparse.Namespace, settings: Settings) -> dict[str, ChatGLM]:
    """Every model by every name it has, the default first."""
    models: dict[str, ChatGLM] = {}
    by_source: dict[str | None, ChatGLM] = {}
    for source in arguments.model or [os.environ.get("CHATGLM_MODEL")]:
        name, path = split_name(source) if source else (None, None)
        model = by_source[path] = load(arguments, settings, path)
        names = None if models else arguments.served_model_name
        if not models:
            use_few_threads(model)
        for alias in names or [name or (Path(path).name if path else "nano")]:
            add(models, alias, model)
    for adapter in arguments.adapter:
        name, path = split_name(adapter)
        name = name or Path(path).name
        add(models, name, with_adapter(arguments, settings, by_source, name, path))
    return models


def with_adapter(
    arguments: argparse.Namespace,
    settings: Settings,
    by_source: Mapping[str | None, ChatGLM],
    name: str,
    path: str,
) -> ChatGLM:
    """The model that an adapter names as its base, else the first, with the adapter on, over the
    same weights; what cannot share them (a learned prefix, whole tensors) has a copy of its own.
    """
    from chatglm.adapters.peft import read_adapter
    from chatglm.checkpoint import resolve
    from chatglm.generation.adapters import NotShared

    try:
        base = Path(read_adapter(resolve(path)).base).name
        source = next((s for s in by_source if s and Path(s).name == base), next(iter(by_source)))
        by_source[source].add_adapter(name, path)
    except NotShared as error:
        note(f"{name}: {error}")
        return load(arguments, settings, source, path)
    except (ValueError, FileNotFoundError) as error:
        raise CommandError(str(error), INVALID_INPUT if Path(path).exists() else 1) from error
    return by_source[source].with_adapter(name)


def add(models: dict[str, ChatGLM], name: str, model: ChatGLM) -> None:
    """One more model under a name of its own."""
    if name in models:
        raise CommandError(f"two models are named {name}; give others: --model NAME=PATH")
    models[name] = model


def load(
    arguments: argparse.Namespace,
    settings: Settings,
    source: str | None,
    adapter: str | None = None,
) -> ChatGLM:
    """The model at a source, loaded as the flags say."""
    if source is not None and source.startswith("openai/"):
        raise CommandError(f"{source} is a remote service; a server serves weights of its own")
    try:
        model = ChatGLM.from_pretrained(
            source,
            dtype=arguments.dtype,
            device=arguments.device,
            revision=arguments.revision,
            offline=True if arguments.offline else None,
            quantize=arguments.quantize,
            adapter=adapter,
            max_num_seqs=settings.max_num_seqs,
            max_num_tokens=settings.max_num_tokens,
            kv_dtype=settings.kv_dtype,
        )
    except (ValueError, FileNotFoundError) as error:
        is_damaged = source is None or Path(source).exists()
        raise CommandError(str(error), INVALID_INPUT if is_damaged else 1) from error
    assert isinstance(model, ChatGLM)
    longest = min(settings.max_model_len or model.config.max_length, model.config.max_length)
    if settings.max_num_tokens is not None and settings.max_num_tokens < longest:
        raise CommandError(
            f"--max-num-tokens {settings.max_num_tokens} has no room for one context of {longest} "
            "tokens; give as many, or a smaller --max-model-len"
        )
    engine, most = model.engine, settings.max_num_batched_tokens
    engine.max_num_batched_tokens, engine.chunk_size = most, min(engine.chunk_size, most)
    return model
