"""The chat formats of the generations by name."""

from __future__ import annotations

from chatglm.tokenizer.base import Tokenizer
from chatglm.tokenizer.roles import ChatGLM3Template, GLM0414Template, NanoTemplate, RoleTemplate
from chatglm.tokenizer.rounds import ChatGLM2Template, ChatGLMTemplate, GLM2021Template
from chatglm.tokenizer.template import Template
from chatglm.tokenizer.thinking import MoeTemplate, Z1Template

_TEMPLATES: dict[str, type[Template]] = {
    "glm": GLM2021Template,
    "chatglm": ChatGLMTemplate,
    "chatglm2": ChatGLM2Template,
    "chatglm3": ChatGLM3Template,
    "glm4": RoleTemplate,
    "glm4_0414": GLM0414Template,
    "glm_z1": Z1Template,
    "glm4_moe": MoeTemplate,
    "nano": NanoTemplate,
}


def make_template(tokenizer: Tokenizer) -> Template:
    """The chat format of a tokenizer's generation."""
    if tokenizer.generation not in _TEMPLATES:
        raise ValueError(
            f"generation must be one of {', '.join(_TEMPLATES)}, got {tokenizer.generation!r}"
        )
    return _TEMPLATES[tokenizer.generation](tokenizer)
