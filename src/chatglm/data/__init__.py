"""From files of text to rows of training examples."""

from chatglm.data.example import Example
from chatglm.data.shards import Documents, open_documents
from chatglm.data.stream import Origin, Stream

__all__ = ["Documents", "Example", "Origin", "Stream", "open_documents"]
