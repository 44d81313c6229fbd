"""From transformers' arguments to the network's and back, the same for all published models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from chatglm.checkpoint import Layout
from chatglm.integrations.transformers.configuration import PublishedConfig
from chatglm.integrations.transformers.layout import (
    Places,
    extended,
    read_places,
    seen,
    with_learned,
)
from chatglm.integrations.transformers.network import Network
from chatglm.model.attention import attend

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""transformers' name of the keys and values that are kept: `cache` from 5.24 on."""


class Remembered:
    """transformers' cache, and a learned prefix before it, as the network's cache.

    learned: keys and values (L, 2, G, N, D).
    """

    def __init__(self, past: Cache | None, learned: Tensor | None) -> None:
        self.past = past
        self.learned = learned

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Keep k, v (B, G, T, D) and return what q (B, H, T, D) reads of all: (B, H, T, D)."""
        if self.past is not None:
            k, v = self.past.update(k, v, layer)
        if self.learned is not None:
            first = self.learned[layer].to(k.dtype)[:, None].expand(2, len(k), -1, -1, -1)
            k, v = torch.cat((first[0], k), 2), torch.cat((first[1], v), 2)
        return attend(q, k, v, mask)


class PublishedModel(PreTrainedModel, GenerationMixin):
    """What all formats share: from transformers' arguments to the network's and back.

    shifts_labels: whether `labels` are the tokens themselves, so that each is predicted by the one
        before; else they are what each place predicts. official_mask_hides: whether the official
        four-dimensional mask is True where a token may not look.
    """

    config_class = PublishedConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"rotary_(pos_)?emb\."]  # noqa: RUF012
    shifts_labels = True
    official_mask_hides = False
    words_name = ""
    head_name: str | None = None

    def adopt(self, network: Network, layout: Layout) -> None:
        """Use a network without owning it, since its modules are in the official tree already; and
        the ids that tell context and blank of a prefix model.
        """
        self.__dict__ |= {"network": network, "layout": layout}

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.get_submodule(self.words_name)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put other word embeddings in their place."""
        parent, _, leaf = self.words_name.rpartition(".")
        setattr(self.get_submodule(parent), leaf, value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The head; None where it is the word embeddings."""
        return None if self.head_name is None else self.get_submodule(self.head_name)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Put another head in its place."""
        if self.head_name is None:
            raise ValueError("the head is the word embeddings; use set_input_embeddings")
        parent, _, leaf = self.head_name.rpartition(".")
        setattr(self.get_submodule(parent), leaf, value)

    def learned_prefix(self) -> Tensor | None:
        """Keys and values (L, 2, G, N, D) of P-tuning v2; None where there is none."""
        return None

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: Cache | None = None,
        **unused: object,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Logits (B, T, V) in float32, and the loss where labels (B, T) are given, −100 = no loss.

        position_ids: (B, P, T), (B, T) for one plane, or None to tell them from ids and mask.
        attention_mask: (B, S), 0 = padding, past tokens included; or the official form (B, 1, T, S)
        of the generation, which is True where ChatGLM-6B may *not* look and where GLM 2021 may; or
        GLM's (B,) lengths of the context. cache: another name of `past_key_values`.
        """
        output = self.states(
            input_ids,
            position_ids,
            attention_mask,
            past_key_values if cache is None else cache,
            inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        hidden = output.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.network.logits(hidden[:, kept])
        scored = CausalLMOutputWithPast(
            loss=None if labels is None else self.loss(logits, labels, num_items_in_batch),
            logits=logits,
            hidden_states=output.hidden_states,
            **{CACHE: output.get(CACHE)},
        )
        return scored if return_dict in (None, True) else scored.to_tuple()

    def states(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: Cache | None = None,
        **unused: object,
    ) -> BaseModelOutputWithPast:
        """Last hidden states (B, T, C); arguments as in `forward`."""
        network: Network = self.network
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        if inputs is None:
            raise ValueError("input_ids and inputs_embeds are both missing; give one of them")
        learned = self.learned_prefix()
        if use_cache is None:
            use_cache = bool(getattr(self.config, "use_cache", True)) and not self.training
        past = past_key_values if cache is None else cache
        if use_cache and past is None:
            past = DynamicCache()
        positions, mask = self.place(input_ids, inputs, position_ids, attention_mask, past, learned)
        remembered = None
        if past is not None or learned is not None:
            remembered = Remembered(past, learned)
        states: list[Tensor] = []
        hooks = []
        if output_hidden_states or (
            output_hidden_states is None and self.config.output_hidden_states
        ):
            hooks = [network.layers[0].register_forward_pre_hook(lambda _, x: states.append(x[0]))]
            hooks += [
                layer.register_forward_hook(lambda _, x, y: states.append(y))
                for layer in network.layers[:-1]
            ]
        try:
            hidden = network(inputs, positions, mask, remembered)  # (B, T, C)
        finally:
            for hook in hooks:
                hook.remove()
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=(*states, hidden) if hooks else None,
            **{CACHE: past if use_cache else None},
        )

    def loss(self, logits: Tensor, labels: Tensor, count: Tensor | int | None) -> Tensor:
        """Mean cross-entropy over labels ≠ −100, or their sum over `count`."""
        return ForCausalLMLoss(
            logits,
            labels,
            vocab_size=logits.shape[-1],
            num_items_in_batch=count,
            shift_labels=None if self.shifts_labels else labels,
        )

    def place(
        self,
        input_ids: Tensor | None,
        inputs: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        learned: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Position ids (B, P, T) and mask (B, 1, T, N + S) of this call's tokens."""
        shape = self.network.config
        batch, length = inputs.shape[:2]
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        num_learned = 0 if learned is None else learned.shape[3]
        keep = lengths = official = None
        if attention_mask is not None:
            if attention_mask.dim() == 4:
                official = attention_mask.to(inputs.device)
            elif attention_mask.dim() == 1:
                lengths = attention_mask.to(inputs.device)
            else:
                keep = attention_mask.to(inputs.device, torch.bool)
        places = self.places(input_ids, inputs, keep, past, is_placed=position_ids is not None)
        if lengths is not None:
            places = Places(places.index, lengths.expand(batch), places.hole)
        if position_ids is not None:
            positions = position_ids.to(inputs.device).reshape(-1, shape.num_planes, length)
        else:
            # A whole prompt behind a filled cache: its keys are virtual, and PEFT counts them.
            positions = places.positions(shape.num_planes) + (past if self.reads_prompts else 0)
        if official is None:
            return positions, seen(places, keep, past=past, num_learned=num_learned)
        may_look = official.bool() ^ self.official_mask_hides
        return positions, with_learned(may_look | ~may_look.any(-1, keepdim=True), num_learned)

    @property
    def reads_prompts(self) -> bool:
        """Whether context and blank are told from the ids of a prompt."""
        return self.network.config.context == "prefix" and self.layout.sop >= 0

    def places(
        self,
        input_ids: Tensor | None,
        inputs: Tensor,
        keep: Tensor | None,
        past: int,
        *,
        is_placed: bool,
    ) -> Places:
        """Where this call's tokens stand; a ValueError where a prefix model cannot tell."""
        shape = self.network.config
        batch, length = inputs.shape[:2]
        if self.reads_prompts and input_ids is not None:
            is_start = (input_ids == self.layout.sop).any(1).all()
            if not past or (length > 1 and bool(is_start)):
                now = None if keep is None else keep[:, -length:]
                return read_places(input_ids, now, shape, self.layout)
        if self.reads_prompts and not is_placed:
            raise ValueError(
                "position_ids are missing, and without the ids of the whole prompt they cannot be "
                "told; give position_ids (B, 2, T)"
            )
        whole = inputs.new_zeros((batch, past + length), dtype=torch.long)
        places = read_places(whole, keep, shape, Layout())
        return Places(places.index[:, past:], places.prefix, places.hole)

    # Generation

    def generate(
        self,
        inputs: Tensor | None = None,
        *settings: object,
        position_ids: Tensor | None = None,
        **more: object,
    ) -> Tensor:
        """Ids after the prompt's, by transformers' generation; see `GenerationMixin.generate`.

        position_ids: (B, P, T) of the prompt, or of prompt and reply; None: told from the ids.
        """
        # Under its own name: transformers would count on in the first plane.
        return super().generate(inputs, *settings, prompt_positions=position_ids, **more)

    def _prepare_position_ids_for_generation(self, *unused: object) -> None:
        """None: `prepare_inputs_for_generation` places tokens."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        prompt_positions: Tensor | None = None,
        generation_attention_mask: Tensor | None = None,
        next_sequence_length: int | None = None,
        cache_position: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Cache | None = None,
        **unused: object,
    ) -> dict[str, object]:
        """What `forward` needs for the next step; positions are told from all ids so far.

        generation_attention_mask: GLM 2021's (B, 1, L, L), True where a token may look, L the
            greatest length of prompt and reply.
        """
        total = input_ids.shape[1]
        length = total if cache_position is None else len(cache_position)
        length = min(next_sequence_length or length, total)
        keep = None
        if attention_mask is not None and attention_mask.dim() == 2:
            keep = attention_mask[:, -total:].bool()
        if prompt_positions is None:
            places = read_places(input_ids, keep, self.network.config, self.layout)
            positions = places.positions(self.network.config.num_planes)
        else:
            positions = extended(prompt_positions.to(input_ids.device), total)
        if generation_attention_mask is not None:
            attention_mask = generation_attention_mask[:, :, total - length : total, :total]
        return {
            "input_ids": input_ids[:, -length:],
            "position_ids": positions[..., -length:],
            "attention_mask": attention_mask,
            CACHE: past_key_values if cache is None else cache,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
        }
