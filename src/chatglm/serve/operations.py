"""What operators ask: is it well, is it ready, which version, how much."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from chatglm import __version__

router = APIRouter()


def condition(state: object) -> str:
    """`ok`, or why the server takes no requests: `loading`, `draining`, `dead`."""
    registry = getattr(state, "registry", None)
    if registry is None:
        return "loading"
    if not registry.worker.is_alive:
        return "dead"
    return "draining" if getattr(state, "is_draining", False) else "ok"


@router.get("/health")
@router.get("/ready")
async def health(request: Request) -> JSONResponse:
    """200 where requests are taken, else 503."""
    said = condition(request.app.state)
    return JSONResponse({"status": said}, status_code=200 if said == "ok" else 503)


@router.get("/version")
async def version() -> dict[str, str]:
    """The package's version."""
    return {"version": __version__}
