"""The network: one transformer for every generation."""

from chatglm.model.attention import Attendable
from chatglm.model.mask import causal_mask, document_mask, prefix_mask
from chatglm.model.transformer import Transformer

__all__ = ["Attendable", "Transformer", "causal_mask", "document_mask", "prefix_mask"]
