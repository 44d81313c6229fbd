"""The published models as transformers' models: the network is ours, names and behaviour are
official.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from chatglm.integrations.transformers.configuration import ChatGLMConfig, GLMConfig
from chatglm.integrations.transformers.network import (
    Backbone,
    PrefixEncoder,
    build_network,
    quantize_layers,
)
from chatglm.integrations.transformers.published import PublishedModel


class ChatGLMForConditionalGeneration(PublishedModel):
    """ChatGLM-6B, ChatGLM2, ChatGLM3 and GLM-4 in the `chatglm` format; the config says which."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        published = config.published()
        shape = published.config
        is_first = published.format == "chatglm"
        self.official_mask_hides = is_first
        self.words_name = "transformer.word_embeddings"
        self.head_name = "lm_head"
        if not is_first:
            self.words_name = "transformer.embedding.word_embeddings"
            self.head_name = "transformer.output_layer"
        if config.tie_word_embeddings:
            self._tied_weights_keys = {f"{self.head_name}.weight": f"{self.words_name}.weight"}
        self.adopt(build_network(self, shape, published.format), published.layout)
        self.transformer.__class__ = Backbone  # what other tools call `base_model`
        self.transformer.__dict__["model"] = self
        if config.quantization_bit:
            quantize_layers(self.network.layers, config.quantization_bit)
        if published.num_learned:
            for parameter in self.parameters():
                parameter.requires_grad = False
            encoder = PrefixEncoder(
                shape, published.num_learned, projects=bool(config.prefix_projection)
            )
            self.transformer.add_module("prefix_encoder", encoder)
        self.post_init()

    def learned_prefix(self) -> Tensor | None:
        encoder = getattr(self.transformer, "prefix_encoder", None)
        if encoder is None:
            return None
        return F.dropout(encoder(), 0.1, self.training)  # the official rate


class GLMModel(PublishedModel):
    """GLM 2021 with its head, under the names of the official model without task."""

    config_class = GLMConfig
    base_model_prefix = "glm"
    words_name = "word_embeddings"
    shifts_labels = False

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        published = config.published()
        self.adopt(build_network(self, published.config, published.format), published.layout)
        self.post_init()


class GLMForConditionalGeneration(PublishedModel):
    """GLM 2021 filling blanks; as in the official code, labels are what each place predicts."""

    config_class = GLMConfig
    base_model_prefix = "glm"
    words_name = "glm.word_embeddings"
    shifts_labels = False

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.glm = GLMModel(config)
        self.adopt(self.glm.network, self.glm.layout)
        self.post_init()


class GLMForCausalLM(GLMForConditionalGeneration):
    """GLM 2021 for tools of causal models; labels are the tokens themselves."""

    shifts_labels = True
