"""Knowledge bases: documents and FAQ tables kept, searched by words and by meaning, and cited."""

from chatglm.apps.knowledge.base import Added, KnowledgeBase
from chatglm.apps.knowledge.records import Chunk, Document, Filter, Hit, Store

__all__ = ["Added", "Chunk", "Document", "Filter", "Hit", "KnowledgeBase", "Store"]
