"""ChatGLM-6B, ChatGLM2, ChatGLM3, GLM-4 in the `chatglm` format and GLM 2021 for transformers'
Auto classes.

Importing this module registers them; no code of a model directory runs. What transformers itself
knows under the name `glm` (GLM-4-9B in its own format) stays its own.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from chatglm.integrations.transformers.configuration import (
    ChatGLMConfig,
    GLMConfig,
    GlmFamilyConfig,
)
from chatglm.integrations.transformers.modeling import (
    ChatGLMForConditionalGeneration,
    GLMForCausalLM,
    GLMForConditionalGeneration,
    GLMModel,
)
from chatglm.integrations.transformers.tokenization import (
    TOKENIZERS,
    ChatGLMTokenizer,
    GLMChineseTokenizer,
)

__all__ = [
    "ChatGLMConfig",
    "ChatGLMForConditionalGeneration",
    "ChatGLMTokenizer",
    "GLMConfig",
    "GLMForCausalLM",
    "GLMForConditionalGeneration",
    "GLMModel",
    "register",
]


def register() -> None:
    """Make transformers' Auto classes know the family; done on import, and harmless when repeated.

    ChatGLM's tokenizers are registered by their official names only: one that is registered for a
    config class as well would give way to the directory's own code where the caller trusts that.
    """
    AutoConfig.register("chatglm", ChatGLMConfig, exist_ok=True)
    AutoConfig.register("glm", GlmFamilyConfig, exist_ok=True)
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        auto.register(ChatGLMConfig, ChatGLMForConditionalGeneration, exist_ok=True)
    AutoModel.register(GLMConfig, GLMModel, exist_ok=True)
    AutoModelForSeq2SeqLM.register(GLMConfig, GLMForConditionalGeneration, exist_ok=True)
    AutoModelForCausalLM.register(GLMConfig, GLMForCausalLM, exist_ok=True)
    for kind in TOKENIZERS:
        AutoTokenizer.register(kind, slow_tokenizer_class=kind, exist_ok=True)
    # The name `glm` is transformers' own, and its tokenizer is taken where no class says otherwise.
    AutoTokenizer.register(GLMConfig, slow_tokenizer_class=GLMChineseTokenizer, exist_ok=True)


register()
