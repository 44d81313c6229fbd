"""Model directories and files in their published formats: found, read, written."""

from chatglm.checkpoint.gguf.export import export_gguf
from chatglm.checkpoint.load import Loaded, load, merge_adapter
from chatglm.checkpoint.published import Defaults, Layout
from chatglm.checkpoint.resolve import resolve
from chatglm.checkpoint.transformers import export_transformers
from chatglm.checkpoint.write import save

__all__ = [
    "Defaults",
    "Layout",
    "Loaded",
    "export_gguf",
    "export_transformers",
    "load",
    "merge_adapter",
    "resolve",
    "save",
]
