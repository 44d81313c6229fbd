"""The published config.json files as transformers' config classes, every key as it is."""

from __future__ import annotations

from dataclasses import replace

from transformers import GlmConfig, PretrainedConfig

from chatglm.checkpoint import Layout
from chatglm.checkpoint.configs import format_of
from chatglm.checkpoint.published import Published, read_published
from chatglm.checkpoint.rope_ratio import RopeRatio, meaning_of_ratio

Value = bool | int | float | str | list[object] | dict[str, object] | None


class PublishedConfig(PretrainedConfig):
    """A config that keeps the keys of its file and answers to transformers' names for them."""

    attribute_map = {"num_hidden_layers": "num_layers"}  # noqa: RUF012
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012
    tokenizer_name = ""

    def __init__(self, **settings: Value) -> None:
        # transformers 4 shares a head by default; these formats say so where they do.
        settings.setdefault("tie_word_embeddings", False)
        if self.tokenizer_name:
            settings.setdefault("tokenizer_class", self.tokenizer_name)
        super().__init__(**settings)

    def published(self) -> Published:
        """Format, shape and layout of the model that this config describes."""
        return read_published(self.to_dict())


class ChatGLMConfig(PublishedConfig):
    """ChatGLM-6B, ChatGLM2, ChatGLM3 and GLM-4 in the `chatglm` format, told apart by their keys.

    rope_ratio_meaning: what a `rope_ratio` does, `base` or `positions`; decided once from the
    published file and saved, since the evidence for it (transformers_version) is rewritten.
    """

    model_type = "chatglm"
    tokenizer_name = "ChatGLMTokenizer"
    # Not in every file, and settable by keyword of from_pretrained all the same.
    pre_seq_len = None
    prefix_projection = False
    quantization_bit = 0
    rope_ratio_meaning = None

    def __init__(self, **settings: Value) -> None:
        if "padded_vocab_size" in settings:
            settings["vocab_size"] = settings["padded_vocab_size"]
        ratio = settings.get("rope_ratio")
        if isinstance(ratio, int | float) and ratio != 1:
            decided, _ = meaning_of_ratio(settings, ratio)
            settings.setdefault("rope_ratio_meaning", decided)
        super().__init__(**settings)

    def __setattr__(self, key: str, value: object) -> None:
        super().__setattr__(key, value)
        if key == "vocab_size" and "padded_vocab_size" in self.__dict__:
            super().__setattr__("padded_vocab_size", value)

    @property
    def max_position_embeddings(self) -> int:
        """The context in tokens, under transformers' name."""
        length = self.seq_length if hasattr(self, "seq_length") else self.max_sequence_length
        return int(length)

    def published(self) -> Published:
        meaning: RopeRatio | None = self.rope_ratio_meaning
        return read_published(self.to_dict(), rope_ratio=meaning)


class GLMConfig(PublishedConfig):
    """GLM 2021.

    sop_token_id, gmask_token_id, mask_token_id: None as published; where they are set, the model
    tells context and blank of plain token ids by itself.
    """

    model_type = "glm"
    sop_token_id = None
    gmask_token_id = None
    mask_token_id = None

    @property
    def max_position_embeddings(self) -> int:
        """The context in tokens, under transformers' name."""
        return int(self.max_sequence_length)

    def published(self) -> Published:
        ids = (self.sop_token_id, self.gmask_token_id, self.mask_token_id)
        sop, gmask, mask = (-1 if i is None else int(i) for i in ids)
        return replace(super().published(), layout=Layout(sop=sop, gmask=gmask, mask=mask))


class GlmFamilyConfig(GlmConfig):
    """The door of the name `glm`, which two formats have: gives GLM 2021's config for its keys and
    transformers' own for all others; nothing is ever an instance of it.
    """

    def __new__(cls, **settings: Value) -> PretrainedConfig:
        is_2021 = (
            "num_layers" in settings and format_of({**settings, "model_type": "glm"}) == "glm2021"
        )
        return GLMConfig(**settings) if is_2021 else GlmConfig(**settings)
