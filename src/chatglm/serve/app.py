"""The application: routes behind the door, the worker beside them, the page at `/`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from chatglm import __version__
from chatglm.generation.chat import ChatGLM
from chatglm.serve import applications, legacy, metrics, operations, responses, routes, texts
from chatglm.serve.errors import add_handlers
from chatglm.serve.gate import Gate, page_paths
from chatglm.serve.record import Record
from chatglm.serve.registry import Registry
from chatglm.serve.service import Counters
from chatglm.serve.settings import Settings
from chatglm.serve.worker import Worker

Models = Mapping[str, ChatGLM]


def create_app(
    models: Models | Callable[[], Models],
    settings: Settings | None = None,
    *,
    report: Callable[[Record], None] | None = None,
) -> FastAPI:
    """The service over these models, by the names that requests use; the first is the default.

    models: may be what loads them; it is called when the server has begun, which says 503 until it
    is done. `app.state.registry` knows the models; set `app.state.is_draining` to take no more
    requests; `app.state.error` is why there will be no models.
    """
    settings = settings or Settings()
    if not models:
        raise ValueError("there is no model to serve; give at least one")
    numbers = metrics.Metrics()
    worker = Worker(numbers)
    counters = Counters()

    def tell(record: Record) -> None:
        numbers.request(record, time.perf_counter() - record.start)
        if report is not None:
            report(record)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        begin(app, models, worker)
        yield
        await asyncio.to_thread(counters.close)
        await asyncio.to_thread(worker.stop)
        if app.state.registry is not None:
            app.state.registry.threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="chatglm",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        middleware=middleware_of(settings, tell),
    )
    app.state.settings = settings
    app.state.registry = None
    app.state.error = None
    app.state.is_draining = False
    app.state.metrics = numbers
    app.state.counters = counters
    add_handlers(app)
    for part in (operations, metrics, routes, texts, responses, applications, legacy):
        app.include_router(part.router)
    add_page(app, settings)
    return app


def begin(app: FastAPI, models: Models | Callable[[], Models], worker: Worker) -> None:
    """Start the worker on the models; beside the server where they are still to be loaded."""
    state = app.state

    def load() -> None:
        registry = Registry(models() if callable(models) else models, state.settings, worker)
        worker.start(registry.engines)
        state.metrics.engines = partial(metrics.numbers_of, registry)
        state.registry = registry

    def beside() -> None:
        try:
            load()
        except Exception as error:  # whoever runs the server is told
            state.error = error

    if callable(models):
        threading.Thread(target=beside, name="chatglm-loading", daemon=True).start()
    else:
        load()


def middleware_of(settings: Settings, report: Callable[[Record], None]) -> list[Middleware]:
    """What every request passes: the door, and before it the permission for other sites."""
    middleware = [Middleware(Gate, settings=settings, report=report)]
    if settings.allow_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id"],
        )
        middleware.insert(0, cors)
    return middleware


def add_page(app: FastAPI, settings: Settings) -> None:
    """Each file of the page's folder at its own path, the page at `/`; nothing else is served."""
    folder = StaticFiles(directory=settings.web, check_dir=False)

    async def file(request: Request) -> Response:
        name = request.url.path.lstrip("/") or "index.html"
        return await folder.get_response(name, request.scope)

    async def no_page(request: Request) -> Response:
        return PlainTextResponse("chatglm serves /v1; there is no page in this installation.\n")

    paths = page_paths(settings.web)
    for path in paths:
        app.add_route(path, file, methods=["GET"], include_in_schema=False)
    if "/" not in paths:
        app.add_route("/", no_page, methods=["GET"], include_in_schema=False)
