"""How a server behaves: addresses, keys, limits and times."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

WEB = Path(__file__).parent / "web"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server's settings; sizes in bytes, times in seconds.

    api_keys: whoever shows one of them may come in; empty for everybody. allowed_hosts: names that
    a request's Host may be besides the address itself, where there is no key. allow_origins: web
    pages of other sites that may call. accept_any_model: an unknown `model` means the first one.
    max_num_tokens, kv_dtype: room for keys and values and what they are kept as, as `ChatGLM` takes
    them. max_num_batched_tokens: of prompts that are read in one step, while running replies wait.
    max_queue: requests that may wait per model. max_requests_per_minute: of one key, or of one
    address where there are no keys; 0 for any. max_model_len: tokens of prompt and reply together,
    where fewer than the model's own are wanted. drain_timeout: how long running requests may go on
    after SIGTERM. ssl_certfile, ssl_keyfile: PEM files; with them the server speaks HTTPS.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    accept_any_model: bool = False
    max_num_seqs: int = 64
    max_num_tokens: int | None = None
    kv_dtype: str = "auto"
    max_num_batched_tokens: int = 2048
    max_queue: int = 512
    max_requests_per_minute: int = 0
    max_model_len: int | None = None
    max_body_bytes: int = 16 << 20
    header_timeout: float = 10.0
    body_timeout: float = 20.0
    request_timeout: float = 600.0
    keep_alive: float = 15.0
    drain_timeout: float = 30.0
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    log_content: bool = False
    web: Path = WEB

    @property
    def url(self) -> str:
        """The server's address as a browser takes it."""
        scheme = "http" if self.ssl_certfile is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback(self.host)

    @property
    def host_names(self) -> frozenset[str] | None:
        """Names that a request's Host may be; None for any, where a key is asked for anyway."""
        if self.api_keys or not self.is_loopback:
            return None
        names = {"localhost", "127.0.0.1", "::1", self.host, *self.allowed_hosts}
        return frozenset(name.lower() for name in names)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
