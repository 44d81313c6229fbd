"""`/v1/fill`: blanks of a text, filled one after the other."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from chatglm.prompt import Prompt
from chatglm.serve.errors import invalid
from chatglm.serve.generation import Ask, Generation
from chatglm.serve.protocol.fill import FillBody
from chatglm.serve.registry import Registry, Served
from chatglm.serve.routes import note

MAX_BLANKS = 64


async def fill_blanks(
    request: Request, registry: Registry, served: Served, body: FillBody
) -> dict[str, object]:
    """The filled text, and what fills each blank."""
    template = served.tokenizer.template
    served.check_size(body.text, "text")
    if template.first_blank(body.text) is None:
        raise invalid("the text has no blank; mark one by [MASK], [sMASK] or [gMASK]", "text")
    settings = {**body.settings(), "max_new_tokens": body.max_tokens}
    sampling = replace(served.sampling(settings), stop_ids=template.blank_end_ids)
    text, spans = body.text, list[str]()
    num_prompt = num_new = 0
    while (blank := template.first_blank(text)) is not None:
        if len(spans) == MAX_BLANKS:
            raise invalid(f"the text has more than {MAX_BLANKS} blanks", "text")
        prompt = await run_in_threadpool(make_prompt, served, text)
        generation = Generation(
            registry=registry, served=served, asks=[Ask(prompt=prompt, sampling=sampling)]
        )
        note(request, generation)
        span = "".join([step.text async for step in generation.steps()]).strip("\n")
        num_prompt += generation.num_prompt
        num_new += generation.num_new
        spans.append(span)
        text = text[: blank[0]] + span + text[blank[1] :]
    return {
        "object": "fill",
        "model": served.name,
        "text": text,
        "spans": spans,
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
        },
    }


def make_prompt(served: Served, text: str) -> Prompt:
    """A text with blanks as a prompt for the first of them."""
    try:
        prompt = served.tokenizer.template.blank(text)
    except ValueError as error:
        raise invalid(str(error), "text") from error
    served.check_length(prompt, "text")
    return prompt
