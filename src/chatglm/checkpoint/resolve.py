"""Where a model lies: inside the package, in a directory, in the hub's cache or on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

NANO = Path(__file__).resolve().parents[1] / "assets" / "nano"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What a model directory needs; never code, never pictures.
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "pytorch_model*.bin"]


def resolve(
    source: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    offline: bool | None = None,
) -> Path:
    """The directory or GGUF file of a model.

    None is the embedded model. A path that exists is used as it is, without the network; it may be
    a GGUF file, or a directory with one such file for all.
    `owner/name` is a hub id (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are heeded),
    `modelscope://owner/name` one of ModelScope, as is `owner/name` with CHATGLM_SOURCE=modelscope.
    """
    if source is None:
        return NANO
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.is_dir():
        return only_gguf(path) or path
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return path
        raise ValueError(f"{path} is a file; give the directory of the model, or a .gguf file")
    if text.startswith("modelscope://"):
        return from_modelscope(text.removeprefix("modelscope://"), revision)
    if not _HUB_ID.fullmatch(text) or text.startswith("."):
        raise FileNotFoundError(
            f"no directory {path}, and {text!r} is not a hub id (owner/name); give a model "
            "directory, a hub id, "
            "or nothing for the embedded model"
        )
    if os.environ.get("CHATGLM_SOURCE", "hf") == "modelscope":
        return from_modelscope(text, revision)
    return from_hub(text, revision, offline)


def only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a directory that holds just one and no config.json; else None."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return None
    found = [path for path in folder.iterdir() if path.suffix.lower() == ".gguf"]
    return found[0] if len(found) == 1 else None


def from_hub(name: str, revision: str | None, offline: bool | None) -> Path:
    """A hub model's directory in the cache, downloaded if need be."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    is_offline = constants.HF_HUB_OFFLINE if offline is None else offline
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=_WANTED, local_files_only=is_offline
        )
    except LocalEntryNotFoundError as error:
        why = "offline" if is_offline else f"{constants.ENDPOINT} cannot be reached"
        raise FileNotFoundError(
            f"{name} is not in the cache {constants.HF_HUB_CACHE}, and {why}; connect, set "
            "HF_ENDPOINT to a mirror, "
            "or give a directory"
        ) from error
    except GatedRepoError as error:
        raise FileNotFoundError(f"{name} asks for an account; set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{constants.ENDPOINT} has no model {name}; check the name, or set HF_TOKEN if it is "
            "private"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{name} is not in the cache {constants.HF_HUB_CACHE} and could not be downloaded from "
            f"{constants.ENDPOINT} ({type(error).__name__}); connect, set HF_ENDPOINT to a "
            "mirror, or give a directory"
        ) from error
    return Path(folder)


def from_modelscope(name: str, revision: str | None) -> Path:
    """A ModelScope model's directory."""
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"modelscope://{name} needs ModelScope's client; pip install modelscope"
        ) from error
    return Path(snapshot_download(name, revision=revision, allow_file_pattern=_WANTED))


def nearby_base(folder: Path, name: str) -> Path | None:
    """The base of a directory that holds a learned prefix only: a path, or a directory beside it
    of that name.
    """
    path = Path(name).expanduser()
    candidates = [folder / path, path, folder.parent / path.name]
    return next((p for p in candidates if (p / "config.json").is_file() and p != folder), None)
