"""Model directories in their published formats: found, read, written."""

from chatglm.checkpoint.configs import Defaults, Layout
from chatglm.checkpoint.load import Loaded, load, merge_adapter
from chatglm.checkpoint.resolve import resolve
from chatglm.checkpoint.write import save

__all__ = ["Defaults", "Layout", "Loaded", "load", "merge_adapter", "resolve", "save"]
