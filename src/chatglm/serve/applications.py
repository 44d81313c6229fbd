"""The finished tools over HTTP: blanks, summaries, translations, writing, customer service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from chatglm.serve.errands import Errand, Progress, run
from chatglm.serve.events import EventStream, unless_gone
from chatglm.serve.fill import fill_blanks
from chatglm.serve.protocol.applications import (
    ApplicationBody,
    DeskBody,
    FeedbackBody,
    SummarizeBody,
    SupportBody,
    TranslateBody,
    WriteBody,
)
from chatglm.serve.protocol.fill import FillBody
from chatglm.serve.routes import JsonRoute, begin, record_of
from chatglm.serve.service import Counters
from chatglm.serve.shared import SharedChatGLM

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatglm.apps.support import CustomerService

T = TypeVar("T")
router = APIRouter(route_class=JsonRoute)


@router.post("/v1/fill")
async def fill(request: Request, body: FillBody) -> Response:
    """The text with its blanks filled from left to right."""
    registry, served = begin(request, body.model)
    return JSONResponse(await unless_gone(request, fill_blanks(request, registry, served, body)))


@router.post("/v1/summarize")
async def summarize(request: Request, body: SummarizeBody) -> Response:
    """A summary of each text."""

    def work(model: SharedChatGLM, progress: Progress) -> Mapping[str, object]:
        from chatglm.apps.summarize import Summarizer

        done = Summarizer(model).summarize_many(
            body.texts or [cast(str, body.text)],
            form=body.form,
            length=body.length,
            points=body.points,
            mode=body.mode,
            seed=body.seed,
            on_progress=progress,
        )
        told = [summary.to_dict() for summary in done]
        return {"data": told} if body.texts else told[0]

    return await answer(request, body, "summary", work)


@router.post("/v1/translate")
async def translate(request: Request, body: TranslateBody) -> Response:
    """The translation of a text or document, its structure kept."""

    def work(model: SharedChatGLM, progress: Progress) -> Mapping[str, object]:
        from chatglm.apps.translate import Translator

        done = Translator(model, glossary=body.glossary).translate_document(
            body.text, body.format, source=body.source, target=body.target, on_progress=progress
        )
        return {
            "text": done.text,
            "source": done.direction.source,
            "target": done.direction.target,
            "format": done.format,
            "origins": dict(done.origins),
            "notes": [f"line {line}: {note}" for line, note in done.notes],
        }

    return await answer(request, body, "translation", work)


@router.post("/v1/write")
async def write(request: Request, body: WriteBody) -> Response:
    """A text in a form, or a draft that was worked on."""

    def work(model: SharedChatGLM, progress: Progress) -> Mapping[str, object]:
        from chatglm.apps.write import Writer, Written

        writer, seed = Writer(model), body.seed
        if body.form == "continue":
            told = writer.go_on(body.topic, length=body.length or 200, seed=seed)
            done = Written(text=told, form="continue")
        elif body.form == "rewrite":
            done = writer.rewrite(body.topic, body.tone, seed=seed)
        elif body.form == "fill":
            done = Written(text=writer.fill(body.topic, seed=seed), form="fill")
        else:
            done = writer.write(
                body.form,
                body.topic,
                length=body.length,
                outline=body.outline,
                seed=seed,
                fields=body.fields,
                on_progress=progress,
            )
        outline, notes = list(done.outline), list(done.notes)
        return {"text": done.text, "form": done.form, "outline": outline, "notes": notes}

    return await answer(request, body, "text", work)


@router.get("/v1/write/forms")
async def forms(request: Request) -> dict[str, object]:
    """The forms that there are."""

    def found() -> list[dict[str, object]]:
        from chatglm.apps.write.forms import all_forms

        return [
            {"name": form.name, "title": form.title, "kind": form.kind, "aliases": form.aliases}
            for form in all_forms().values()
        ]

    begin(request, None)
    return {"object": "list", "data": await run_in_threadpool(found)}


async def answer(
    request: Request,
    body: ApplicationBody,
    kind: str,
    work: Callable[[SharedChatGLM, Progress], Mapping[str, object]],
) -> Response:
    """The response of an application: in one piece, or progress and then the result."""
    registry, served = begin(request, body.model)
    registry.room(served, 1)
    record = record_of(request)

    def labelled(model: SharedChatGLM, progress: Progress) -> Mapping[str, object]:
        told = work(model, progress)
        record.keep(body, told)
        return {"object": kind, "model": served.name, **told}

    errand = Errand(registry, served, record, labelled)
    if body.stream:
        return EventStream(errand.events(), keep_alive=registry.settings.keep_alive)
    return JSONResponse(await run(request, errand))


@router.post("/v1/support")
async def support(request: Request, body: SupportBody) -> Response:
    """The reply to a customer: an answer with its sources, or a person called."""

    def work(service: CustomerService) -> dict[str, object]:
        return service.ask(body.question, body.session).to_dict()

    registry, served = begin(request, body.model)
    registry.room(served, 1)
    record = record_of(request)
    told = await counters(request).ask(registry, served, body.base, work, record, body.wording)
    record.keep(body, told)
    return JSONResponse({"object": "support.reply", "model": served.name, **told})


@router.get("/v1/support/bases")
async def bases(request: Request) -> dict[str, object]:
    """The names of the knowledge bases."""
    from chatglm.apps.knowledge.home import names

    begin(request, None)
    return {"object": "list", "data": [{"id": name} for name in await run_in_threadpool(names)]}


@router.get("/v1/support/turns")
async def turns(
    request: Request, session: str, base: str | None = None, after: int = 0
) -> dict[str, object]:
    """What was said in a session after a turn, by whoever."""

    def work(service: CustomerService) -> list[dict[str, object]]:
        return [
            {"turn": turn.id, "role": turn.role, "text": turn.text, "at": turn.at}
            for turn in service.desk.turns(session, after)
        ]

    return {"object": "list", "data": await at_desk(request, base, work)}


@router.post("/v1/support/feedback")
async def feedback(request: Request, body: FeedbackBody) -> dict[str, object]:
    """👍 or 👎 for a reply."""

    def work(service: CustomerService) -> None:
        service.desk.feedback(body.turn, body.mark, body.note, body.session)

    await at_desk(request, body.base, work)
    return {"object": "support.feedback", "turn": body.turn, "value": body.mark}


@router.get("/v1/support/handovers")
async def handovers(
    request: Request, base: str | None = None, closed: bool = False
) -> dict[str, object]:
    """The talks that a person shall take, with what was said so far."""

    def work(service: CustomerService) -> list[dict[str, object]]:
        return [one.to_dict() for one in service.desk.handovers(closed=closed)]

    return {"object": "list", "data": await at_desk(request, base, work)}


@router.post("/v1/support/handovers/{number}")
async def at_handover(request: Request, number: int, body: DeskBody) -> dict[str, object]:
    """A person's answer to a customer, or the end of it."""

    def work(service: CustomerService) -> dict[str, object]:
        if body.text is not None:
            service.desk.answer(number, body.text, body.agent)
        if body.close:
            service.desk.close_handover(number, body.agent)
        return service.desk.handover(number).to_dict()

    told = await at_desk(request, body.base, work)
    record_of(request).keep(body, told)
    return {"object": "support.handover", **told}


async def at_desk(request: Request, base: str | None, work: Callable[[CustomerService], T]) -> T:
    """What some work at a base's desk comes to."""
    registry, served = begin(request, None)
    return await counters(request).ask(registry, served, base, work, record_of(request))


def counters(request: Request) -> Counters:
    """The bases that are open."""
    return cast(Counters, request.app.state.counters)
