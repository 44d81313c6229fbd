"""A hand-over told to another system by HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """An address that the operator gives. secret: signs the body in `X-ChatGLM-Signature`."""

    url: str
    secret: str = ""
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ValueError(f"a webhook is an http or https address, got {self.url!r}")

    @classmethod
    def of(cls, url: str) -> Webhook:
        """A webhook whose secret is CHATGLM_WEBHOOK_SECRET, where it is set."""
        return cls(url=url, secret=os.environ.get("CHATGLM_WEBHOOK_SECRET", ""))

    def post(self, event: Mapping[str, object]) -> None:
        """Send an event; ConnectionError where it does not arrive."""
        body = json.dumps(event, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if self.secret:
            signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-ChatGLM-Signature"] = f"sha256={signature}"
        request = urllib.request.Request(self.url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                answer.read(1024)
        except OSError as error:
            raise ConnectionError(f"the webhook {self.url} does not answer ({error})") from error
