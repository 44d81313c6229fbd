"""`/v1/embeddings` and the tokenizer's endpoints."""

from __future__ import annotations

import asyncio
import base64
from functools import partial

import numpy as np
import torch
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from chatglm.generation.chat import ChatGLM
from chatglm.prompt import Prompt
from chatglm.serve.errors import failure, invalid
from chatglm.serve.events import unless_gone
from chatglm.serve.protocol.texts import DetokenizeBody, EmbeddingBody, TokenizeBody, listed
from chatglm.serve.registry import Registry, Served
from chatglm.serve.routes import JsonRoute, begin, record_of

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingBody) -> Response:
    """A unit vector for each text."""
    registry, served = begin(request, body.model)
    width = served.model.config.hidden_size
    if body.dimensions is not None and body.dimensions > width:
        raise invalid(
            f"{served.name} makes vectors of {width} dimensions, not {body.dimensions}",
            "dimensions",
        )
    prompts = await run_in_threadpool(make_prompts, served, body)
    record_of(request).prompts = prompts
    rows = await unless_gone(request, embed_all(registry, served, prompts))
    if body.dimensions is not None:
        rows = [shortened(row, body.dimensions) for row in rows]
    as_text = body.encoding_format == "base64"
    count = sum(len(prompt.tokens) for prompt in prompts)
    return JSONResponse(
        {
            "object": "list",
            "model": served.name,
            "data": [
                {
                    "object": "embedding",
                    "index": i,
                    "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()
                    if as_text
                    else row.tolist(),
                }
                for i, row in enumerate(rows)
            ],
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
    )


def make_prompts(served: Served, body: EmbeddingBody) -> list[Prompt]:
    """Texts or ids as prompts."""
    prompts = []
    for given in listed(body.input):
        if isinstance(given, str):
            served.check_size(given, "input")
        try:
            if isinstance(given, str):
                prompt = served.model.continuation(given)
            else:
                prompt = served.model.prompt(given)
        except ValueError as error:
            raise invalid(str(error), "input") from error
        if len(prompt.tokens) > served.max_length:
            raise served.too_long(str(len(prompt.tokens)), "input")
        if max(prompt.tokens) >= served.model.config.vocab_size:
            raise invalid("the input has a token id that the model does not know", "input")
        prompts.append(prompt)
    return prompts


async def embed_all(registry: Registry, served: Served, prompts: list[Prompt]) -> list[np.ndarray]:
    """A unit vector of float32 for each prompt, made between two steps of the engine."""
    rows = []
    for prompt in prompts:
        future = registry.worker.call(partial(embed, served.model, prompt))
        try:
            rows.append(await asyncio.wrap_future(future))
        except (MemoryError, RuntimeError) as error:
            raise failure(error) from error
        except ValueError as error:
            raise invalid(str(error), "input") from error
    return rows


@torch.inference_mode()
def embed(model: ChatGLM, prompt: Prompt) -> np.ndarray:
    """The mean of a prompt's last hidden states, of length 1: (C,)."""
    hidden = model.hidden(prompt)[0].float()  # (T, C)
    return torch.nn.functional.normalize(hidden.mean(0), dim=0).cpu().numpy()


def shortened(row: np.ndarray, width: int) -> np.ndarray:
    """The first values of a vector, again of length 1."""
    part = row[:width]
    return part / max(float(np.linalg.norm(part)), 1e-12)


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeBody) -> Response:
    """The ids of a text, or of a conversation in the model's own format."""
    _, served = begin(request, body.model)
    return JSONResponse(await run_in_threadpool(tokens_of, served, body))


def tokens_of(served: Served, body: TokenizeBody) -> dict[str, object]:
    """The response of `/tokenize`."""
    tokenizer = served.tokenizer
    if body.messages is not None:
        try:
            rendered = tokenizer.template.render(
                [message.message() for message in body.messages],
                tools=[tool.data() for tool in body.tools or []] or None,
                reply=body.add_generation_prompt is not False,
            )
        except (ValueError, KeyError) as error:
            raise invalid(f"the conversation cannot be written: {error}", "messages") from error
        ids = rendered.tokens
    else:
        assert body.prompt is not None
        if body.prompt in end_names(served):  # lm-eval asks so for the end token's id
            ids = [tokenizer.special[body.prompt]]
        else:
            ids = tokenizer.encode(body.prompt) if body.prompt else []
            if body.add_special_tokens is not False:
                ids = tokenizer.wrap(ids)
    told: dict[str, object] = {
        "count": len(ids),
        "max_model_len": served.max_length,
        "tokens": ids,
    }
    if body.return_token_strs:
        told["token_strs"] = [tokenizer.decode([i], skip_special=False) for i in ids]
    return told


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> Response:
    """The text of ids, special ones by their names."""
    _, served = begin(request, body.model)
    high = max(body.tokens, default=0)
    if high >= served.model.config.vocab_size:
        raise invalid(
            f"token {high} is none; ids go to {served.model.config.vocab_size - 1}", "tokens"
        )
    text = await run_in_threadpool(served.tokenizer.decode, body.tokens, skip_special=False)
    return JSONResponse({"prompt": text})


@router.get("/tokenizer_info")
async def tokenizer_info(request: Request, model: str | None = None) -> Response:
    """What clients without a tokenizer of their own need to know."""
    _, served = begin(request, model)
    ends = end_names(served)
    return JSONResponse(
        {
            "tokenizer_class": type(served.tokenizer).__name__,
            "generation": served.tokenizer.generation,
            "vocab_size": served.tokenizer.vocab_size,
            "model_max_length": served.max_length,
            "eos_token": ends[0] if ends else None,
            "bos_token": None,
            "pad_token": ends[0] if ends else None,
            "added_tokens": {str(i): name for i, name in served.tokenizer.special_ids.items()},
            "chat_template": None,
        }
    )


def end_names(served: Served) -> list[str]:
    """Names of the tokens that end a reply."""
    names = served.tokenizer.special_ids
    return [names[i] for i in sorted(served.engine.stop_ids) if i in names]
