"""The flags of `chatglm serve`, and the settings that they come to."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import say
from chatglm.cli.options import CommandError
from chatglm.quantization.scheme import KINDS

if TYPE_CHECKING:
    from chatglm.serve.settings import Settings


def add_log(parser: argparse.ArgumentParser) -> None:
    """What is written down."""
    log = parser.add_argument_group(say("log", "日志"))
    log.add_argument("--log-format", choices=("text", "json"), default="text")
    log.add_argument(
        "--log-content",
        action="store_true",
        help=say("prompts and replies go to the log too", "日志中包含提示词与回复"),
    )
    log.add_argument("-v", "--verbose", action="store_true")
    log.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help=say("warnings and errors only", "只记录警告与错误"),
    )


def add_models(parser: argparse.ArgumentParser) -> None:
    """Which models, under which names."""
    group = parser.add_argument_group(say("models", "模型"))
    group.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]PATH",
        help=say(
            "directory or hub name, and the name that requests use; may be repeated; default: "
            "$CHATGLM_MODEL, else the embedded model as nano",
            "目录或 Hub 名称，可指定请求所用名称，可多次给出；默认 $CHATGLM_MODEL，"
            "否则为内置模型 nano",
        ),
    )
    group.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=say(
            "a LoRA adapter over its model's weights, under a name of its own; may be repeated",
            "为其基座模型加载 LoRA 适配器（共用权重）并另起名称，可多次给出",
        ),
    )
    group.add_argument(
        "--served-model-name",
        nargs="+",
        metavar="NAME",
        help=say("names of the first model", "第一个模型的名称（可多个）"),
    )
    group.add_argument(
        "--accept-any-model",
        action="store_true",
        help=say("an unknown model means the first one", "未知的 model 一律使用第一个模型"),
    )
    group.add_argument("--revision", help=say("branch, tag or commit on the hub", "Hub 上的版本"))
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )
    group.add_argument("--quantize", choices=KINDS)
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--offline", action="store_true", help=say("never touch the network", "不访问网络")
    )


def add_door(parser: argparse.ArgumentParser) -> None:
    """Where the service is, and who may come in."""
    group = parser.add_argument_group(say("address and access", "地址与访问"))
    group.add_argument("--host", default="127.0.0.1")
    group.add_argument("--port", type=int, default=8000)
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=say(
            "whoever has one may come in; may be repeated; default: $CHATGLM_API_KEY",
            "访问密钥，可多次给出；默认 $CHATGLM_API_KEY",
        ),
    )
    group.add_argument(
        "--api-key-file",
        type=Path,
        help=say("a file with a key in each line", "每行一个密钥的文件"),
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help=say("allow other machines without a key", "允许其他机器无密钥访问"),
    )
    group.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help=say("a page of another site that may call", "允许跨域调用的网页来源"),
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help=say("one more name of this server", "本服务的其他主机名"),
    )
    for flag, meaning in (
        ("--ssl-certfile", ("certificate (PEM): speak HTTPS", "证书（PEM），启用 HTTPS")),
        ("--ssl-keyfile", ("its key, if in a file of its own", "证书私钥（如不在同一文件）")),
    ):
        group.add_argument(flag, type=Path, metavar="FILE", help=say(*meaning))


def add_limits(parser: argparse.ArgumentParser) -> None:
    """How much, and how long."""
    group = parser.add_argument_group(say("limits", "限制"))
    for flag, default, meaning in (
        ("--max-num-seqs", 64, ("requests that run at once", "同时运行的请求数")),
        (
            "--max-num-batched-tokens",
            2048,
            ("of prompts, read in one step", "每步读取的提示词元数上限"),
        ),
        ("--max-queue", 512, ("requests that may wait", "排队请求数上限")),
        (
            "--max-requests-per-minute",
            0,
            ("of one key, 0: any", "每个密钥每分钟请求数，0 不限"),
        ),
        ("--max-body-bytes", 16 << 20, ("largest request body", "请求体大小上限")),
    ):
        group.add_argument(flag, type=int, default=default, help=f"{say(*meaning)} ({default})")
    group.add_argument(
        "--max-num-tokens",
        type=int,
        metavar="TOKENS",
        help=say(
            "whose keys and values are kept, of running and earlier requests (--max-num-seqs full "
            "contexts, 4 GiB at most)",
            "键值缓存可容纳的词元数（默认 --max-num-seqs 个完整上下文，最多 4 GiB）",
        ),
    )
    group.add_argument(
        "--kv-dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16", "int8"),
        help=say("of keys and values", "键值缓存的数据类型"),
    )
    group.add_argument(
        "--max-model-len",
        type=int,
        metavar="TOKENS",
        help=say("tokens of prompt and reply together", "提示与回复的总长度上限"),
    )
    for flag, seconds, meaning in (
        ("--header-timeout", 10.0, ("seconds for a request's head", "读取请求头的时限（秒）")),
        ("--body-timeout", 20.0, ("seconds without more body", "请求体停滞的时限（秒）")),
        ("--request-timeout", 600.0, ("seconds for a reply, 0: any", "单个请求的时限（秒）")),
        ("--drain-timeout", 30.0, ("seconds after SIGTERM", "收到 SIGTERM 后的等待时限（秒）")),
    ):
        group.add_argument(flag, type=float, default=seconds, help=f"{say(*meaning)} ({seconds:g})")


def make_settings(arguments: argparse.Namespace) -> Settings:
    """The flags as the server's settings; a sentence where they do not go together."""
    from chatglm.serve.settings import Settings, is_loopback

    keys = api_keys(arguments)
    if not is_loopback(arguments.host) and not keys and not arguments.insecure:
        raise CommandError(
            f"--host {arguments.host} lets other machines in and there is no key; give --api-key "
            "KEY, or --insecure to let everybody in"
        )
    if not 0 <= arguments.port <= 65535:
        raise CommandError(f"--port must lie between 0 and 65535, got {arguments.port}")
    check_certificate(arguments)
    for name in (
        *("max_num_seqs", "max_num_batched_tokens", "max_body_bytes"),
        *("header_timeout", "body_timeout"),
    ):
        if getattr(arguments, name) <= 0:
            flag = "--" + name.replace("_", "-")
            raise CommandError(f"{flag} must be above 0, got {getattr(arguments, name):g}")
    if arguments.max_num_tokens is not None and arguments.max_num_tokens < 1:
        raise CommandError(f"--max-num-tokens must be above 0, got {arguments.max_num_tokens}")
    if arguments.max_model_len is not None and arguments.max_model_len < 2:
        raise CommandError(f"--max-model-len must be at least 2, got {arguments.max_model_len}")
    for name in ("max_queue", "max_requests_per_minute", "request_timeout", "drain_timeout"):
        if getattr(arguments, name) < 0:
            flag = "--" + name.replace("_", "-")
            raise CommandError(f"{flag} must be at least 0, got {getattr(arguments, name):g}")
    return Settings(
        host=arguments.host,
        port=arguments.port,
        api_keys=keys,
        allowed_hosts=tuple(arguments.allowed_host),
        allow_origins=tuple(arguments.allow_origin),
        accept_any_model=arguments.accept_any_model,
        max_num_seqs=arguments.max_num_seqs,
        max_num_tokens=arguments.max_num_tokens,
        kv_dtype=arguments.kv_dtype,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        max_queue=arguments.max_queue,
        max_requests_per_minute=arguments.max_requests_per_minute,
        max_model_len=arguments.max_model_len,
        max_body_bytes=arguments.max_body_bytes,
        header_timeout=arguments.header_timeout,
        body_timeout=arguments.body_timeout,
        request_timeout=arguments.request_timeout,
        drain_timeout=arguments.drain_timeout,
        ssl_certfile=arguments.ssl_certfile,
        ssl_keyfile=arguments.ssl_keyfile,
        log_content=arguments.log_content,
    )


def check_certificate(arguments: argparse.Namespace) -> None:
    """A sentence where the files for HTTPS are not there, or no certificate and key."""
    if arguments.ssl_certfile is None:
        if arguments.ssl_keyfile is not None:
            raise CommandError("--ssl-keyfile goes with a certificate; give --ssl-certfile too")
        return
    import ssl

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.ssl_certfile, arguments.ssl_keyfile, lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise CommandError(
            f"--ssl-certfile {arguments.ssl_certfile} cannot be used ({error}); give a PEM "
            "certificate and its key without a password"
        ) from error


def api_keys(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The keys of flags and file, else CHATGLM_API_KEY's."""
    keys = list(arguments.api_key)
    if arguments.api_key_file is not None:
        try:
            lines = arguments.api_key_file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(
                f"--api-key-file {arguments.api_key_file} cannot be read ({error})"
            ) from error
        keys += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise CommandError(f"--api-key-file {arguments.api_key_file} holds no key")
    if not keys and os.environ.get("CHATGLM_API_KEY"):
        keys = [os.environ["CHATGLM_API_KEY"]]
    if "" in keys:
        raise CommandError("--api-key must not be empty; leave it out for a server without keys")
    return tuple(keys)
