"""Several processes that train one model."""

from chatglm.parallel.group import Group, join

__all__ = ["Group", "join"]
