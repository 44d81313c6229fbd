"""The door: who may come in, with what, and what is written down about it."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatglm.serve.errors import ApiError, respond
from chatglm.serve.events import ClientGone
from chatglm.serve.record import Record
from chatglm.serve.settings import Settings

PUBLIC = frozenset({"/health"})
"""Paths that need no key, beside the page's own files: the page asks its reader for the key."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only the page's own files: nothing that a model writes can run, be fetched or be sent away."""


class Keys:
    """The keys of a server, kept as digests; the comparison takes the same time for every guess."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def owner(self, given: str | None) -> str | None:
        """A mark of the key if it is one of them; empty where none is needed, None if it is not."""
        if not self.digests:
            return ""
        digest = hashlib.sha256((given or "").encode("utf-8", "replace")).digest()
        found = [hmac.compare_digest(digest, known) for known in self.digests]
        return digest.hex()[:16] if given is not None and any(found) else None


def given_key(authorization: str) -> str | None:
    """The key of a Bearer header."""
    kind, _, rest = authorization.partition(" ")
    return rest.strip() if kind.lower() == "bearer" else None


class Pace:
    """How many requests each client may make a minute; a minute's can be saved up."""

    MOST_CLIENTS = 10_000

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Seconds until the client may ask again; 0 where it may now, and then it has."""
        left, since = self.left.pop(client, (self.per_minute, now))
        left = min(self.per_minute, left + (now - since) * self.per_minute / 60)
        self.left[client] = (left - 1 if left >= 1 else left, now)
        while len(self.left) > self.MOST_CLIENTS:
            self.left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) * 60 / self.per_minute


class Gate:
    """Checks every request before the application sees it, and reports on it when it is over."""

    def __init__(
        self, app: ASGIApp, settings: Settings, report: Callable[[Record], None] | None = None
    ) -> None:
        self.app, self.settings = app, settings
        self.report = report or (lambda record: None)
        self.keys = Keys(settings.api_keys)
        self.pace = Pace(settings.max_requests_per_minute)
        self.public = PUBLIC | page_paths(settings.web)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        asked = headers.get("x-request-id", "")
        record = Record(
            id=asked if REQUEST_ID.fullmatch(asked) else f"req_{secrets.token_hex(12)}",
            method=scope["method"],
            path=scope["path"],
            client=scope["client"][0] if scope.get("client") else "",
        )
        scope["chatglm.record"] = record
        watched = self.watch_send(send, record)
        try:
            self.check(scope, headers)
            limited = self.limit_body(receive, headers)
            await self.app(scope, limited, watched)
        except ApiError as error:
            record.code = error.code
            await respond(error)(scope, receive, watched)
        except ClientGone:
            record.status = 499
        finally:
            record.status = record.status or 499
            self.report(record)

    def check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """An error where a request may not come in."""
        names = self.settings.host_names
        host = headers.get("host", "")
        if names is not None and hostname(f"//{host}") not in names:
            raise ApiError(
                403,
                "the Host of the request is none of this server's names; add it with "
                "--allowed-host",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and not self.is_own(origin, host):
            raise ApiError(
                403,
                "pages of other sites may not call this server; allow one with --allow-origin",
                code="wrong_origin",
            )
        is_public = scope["path"] in self.public and scope["method"] in ("GET", "HEAD")
        owner = self.keys.owner(given_key(headers.get("authorization", "")))
        # A door before this one has seen the key and says whose it is.
        scope["chatglm.record"].tenant = scope.get("chatglm.tenant") or owner or None
        if not is_public and owner is None:
            raise ApiError(
                401,
                "this server asks for an API key: Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        if self.pace.per_minute and not is_public:
            self.check_pace(scope["chatglm.record"])

    def check_pace(self, record: Record) -> None:
        """An error where a key, or an address where there are no keys, asks too often."""
        seconds = self.pace.wait(record.tenant or record.client, time.monotonic())
        if seconds:
            raise ApiError(
                429,
                f"more than {self.pace.per_minute:g} requests a minute; ask again in "
                f"{seconds:.0f} s",
                code="rate_limit_exceeded",
                retry_after=math.ceil(seconds),
            )

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a page's origin is this server, or one that was allowed."""
        if origin in self.settings.allow_origins or "*" in self.settings.allow_origins:
            return True
        scheme, _, place = origin.partition("://")
        return scheme in ("http", "https") and place.lower() == host.lower() != ""

    def limit_body(self, receive: Receive, headers: Mapping[str, str]) -> Receive:
        """`receive` that gives no more than the body's limit; an error says so, at best at once."""
        most = self.settings.max_body_bytes
        too_large = ApiError(
            413, f"the body is larger than {most} bytes; send less at a time", code="too_large"
        )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large
        so_far = 0

        async def limited() -> Message:
            nonlocal so_far
            message = await receive()
            so_far += len(message.get("body", b""))
            if so_far > most:
                raise too_large
            return message

        return limited

    def watch_send(self, send: Send, record: Record) -> Send:
        """`send` that adds the headers every response has."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = [
                    *message.get("headers", []),
                    (b"x-request-id", record.id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                if any(k == b"content-type" and v.startswith(b"text/html") for k, v in headers):
                    headers.append((b"content-security-policy", PAGE_POLICY.encode()))
                if record.path in self.public:  # after an update no old file may meet a new one
                    headers.append((b"cache-control", b"no-cache"))
                message = {**message, "headers": headers}
            await send(message)

        return watched


def page_paths(web: Path) -> frozenset[str]:
    """The paths of the files in the page's folder, and that of the page."""
    files = {f"/{path.relative_to(web).as_posix()}" for path in web.rglob("*") if path.is_file()}
    return frozenset({"/"} | files if "/index.html" in files else files)


def hostname(url: str) -> str:
    """The host of a URL in lower case; empty where it has none that can be read."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
