"""Writing: `Writer` and what it is made of."""

from chatglm.apps.write.forms import Form
from chatglm.apps.write.writer import Writer, Written

__all__ = ["Form", "Writer", "Written"]
