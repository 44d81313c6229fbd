"""Our tokenizers as transformers' tokenizer classes, under the official classes' names."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AddedToken, BatchEncoding, PreTrainedTokenizer

from chatglm.integrations.transformers.blanks import with_blank
from chatglm.integrations.transformers.conversation import (
    RETURNS_DICT,
    Conversation,
    encode_chats,
    write_chats,
)
from chatglm.integrations.transformers.vocabulary import (
    FILES,
    NAMED,
    SPLITS_SPECIAL,
    spellings,
    split_at,
)
from chatglm.prompt import Prompt, positions
from chatglm.tokenizer import Tokenizer, load_tokenizer


class ChatGLMTokenizer(PreTrainedTokenizer):
    """A tokenizer of the family for transformers; texts are padded on the left.

    split_special_tokens: whether the name of a special token in a text stays text; by default what
        the official code does, True up to ChatGLM3. Chat templates write special ids either way.
    """

    vocab_files_names = FILES
    padding_side = "left"
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        chatglm_generation: str | None = None,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        **settings: object,
    ) -> None:
        found = [Path(str(settings.pop(key))) for key in FILES if settings.get(key)]
        if not found:
            raise FileNotFoundError(
                f"no vocabulary file; give a directory that has one of {', '.join(FILES.values())}"
            )
        self.inner: Tokenizer = load_tokenizer(found[0].parent, chatglm_generation)
        self.spellings = spellings(self.inner)
        self.ids = {word: i for i, word in enumerate(self.spellings)}
        kind = self.inner.generation
        for role, word in NAMED.get(kind, {}).items():
            if self._convert_token_to_id(word) is not None:
                settings.setdefault(role, word)
        for role, value in settings.items():
            if role.endswith("_token") and str(value) in self.inner.special:
                settings[role] = self.spellings[self.inner.special[str(value)]]
        settings.setdefault("split_special_tokens", kind in SPLITS_SPECIAL)
        settings.setdefault("clean_up_tokenization_spaces", False)
        if kind == "chatglm":
            settings.setdefault("model_input_names", [*self.model_input_names, "position_ids"])
        added = {
            i: AddedToken(self.spellings[i], special=True, normalized=False)
            for i in self.inner.special.values()
        }
        added |= added_tokens_decoder or {}
        super().__init__(
            chatglm_generation=kind, added_tokens_decoder=dict(sorted(added.items())), **settings
        )

        if kind == "glm":
            # As published: without it, transformers takes the name `glm` for its own tokenizer.
            self._auto_map = {"AutoTokenizer": [f"tokenization_glm.{type(self).__name__}", None]}

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of ids, as the official tokenizer counts them."""
        return self.inner.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Id of every spelling, added ones included."""
        return self.ids | self.added_tokens_encoder

    def get_command(self, token: str) -> int:
        """Id of a special token by its official name."""
        return self.inner.special[token]

    @property
    def sop_token_id(self) -> int:
        """Id that starts what the model writes."""
        return self.inner.special[self.inner.template.sop]

    @property
    def eop_token_id(self) -> int:
        """Id that ends what fills a blank."""
        return self.inner.special[self.inner.template.blank_ends[0]]

    @property
    def gmask_token_id(self) -> int:
        """Id of the blank at the end of a text."""
        return self.inner.special[self.inner.template.gmask]

    @property
    def mask_token_ids(self) -> list[int]:
        """Ids of all blanks."""
        names = ("[MASK]", "[sMASK]", "[gMASK]")
        return [self.inner.special[name] for name in names if name in self.inner.special]

    def _convert_token_to_id(self, token: str) -> int | None:
        known = self.ids.get(token)
        return self.inner.special.get(token) if known is None else known

    def _convert_id_to_token(self, index: int) -> str:
        return self.spellings[index] if 0 <= index < len(self.spellings) else ""

    # Text to ids and back

    def tokenize(self, text: str, pair: str | None = None, **settings: object) -> list[str]:
        """Spellings of the ids of a text."""
        splits = settings.get("split_special_tokens", self.split_special_tokens)
        names = {
            word: i
            for word, i in self.added_tokens_encoder.items()
            if i >= len(self.spellings) or not splits
        }
        words: list[str] = []
        for part in split_at(names, text if pair is None else text + pair):
            words += (
                [part] if part in names else map(self._convert_id_to_token, self.inner.encode(part))
            )
        return words

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of spellings."""
        return self._decode(self.convert_tokens_to_ids(list(tokens)))

    def _decode(
        self, token_ids: int | Sequence[int], skip_special_tokens: bool = False, **unused: object
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        added = {
            i: token for i, token in self.added_tokens_decoder.items() if i >= len(self.spellings)
        }
        text, run = "", list[int]()
        for i in ids:
            if i in added:
                text += self.inner.decode(run, skip_special=skip_special_tokens)
                text += "" if skip_special_tokens and added[i].special else added[i].content
                run = []
            else:
                run.append(i)
        return text + self.inner.decode(run, skip_special=skip_special_tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Ids with the special ones that the official tokenizer puts around them; a second text
        stands behind, with the end token.
        """
        ids = self.inner.wrap(token_ids_0)
        return ids if token_ids_1 is None else [*ids, *token_ids_1, self.eos_token_id]

    def _pad(
        self, encoded_inputs: dict[str, list[int]], *settings: object, **more: object
    ) -> dict[str, list[int]]:
        padded = super()._pad(encoded_inputs, *settings, **more)
        if "position_ids" not in self.model_input_names:
            return padded
        ids = padded["input_ids"]
        keep = padded.get("attention_mask", [1] * len(ids))
        start, stop = 0, len(ids)
        if 1 in keep:
            start, stop = keep.index(1), len(keep) - keep[::-1].index(1)
        planes = positions(self.placed(ids[start:stop]), stop - start, 2)
        padded["position_ids"] = [[0] * start + p + [0] * (len(ids) - stop) for p in planes]
        return padded

    def placed(self, ids: Sequence[int]) -> Prompt:
        """Ids as a prompt whose context ends at the first `<sop>`."""
        special = self.inner.special
        sop = special[self.inner.template.sop]
        prefix = list(ids).index(sop) if sop in ids else 0
        blanks = [special[name] for name in (self.inner.template.gmask, "[MASK]")]
        hole = next((list(ids).index(b) for b in blanks if b in ids[:prefix]), None)
        return Prompt(tokens=tuple(ids), prefix=prefix, hole=hole)

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Copies of the vocabulary's files, byte for byte."""
        start = f"{filename_prefix}-" if filename_prefix else ""
        written = []
        for file in self.inner.files:
            target = Path(save_directory) / f"{start}{file.name}"
            if not (target.exists() and target.samefile(file)):
                shutil.copyfile(file, target)
            written.append(str(target))
        return tuple(written)

    # Conversations and blanks

    def apply_chat_template(
        self,
        conversation: Conversation | Sequence[Conversation],
        tools: Sequence[Mapping[str, object]] | None = None,
        documents: None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = RETURNS_DICT,
        return_assistant_tokens_mask: bool = False,
        **settings: object,
    ) -> str | list[str] | list[int] | list[list[int]] | BatchEncoding:
        """A conversation in the generation's own format, exact to the id, as transformers returns
        it; with a `chat_template`, in that one.

        Text that looks like a special token stays text. `enable_thinking` is heeded where the
        format knows it.
        """
        if chat_template is not None:
            return super().apply_chat_template(
                conversation,
                tools=tools,
                documents=documents,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=tokenize,
                padding=padding,
                truncation=truncation,
                max_length=max_length,
                return_tensors=return_tensors,
                return_dict=return_dict,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
                **settings,
            )
        chats, is_batch = write_chats(
            self.inner.template,
            conversation,
            tools=tools,
            reply=add_generation_prompt,
            is_open=bool(continue_final_message),
            thinking=settings.get("enable_thinking"),
        )
        if not tokenize:
            return [chat.text for chat in chats] if is_batch else chats[0].text
        encoded = encode_chats(
            self,
            chats,
            is_batch=is_batch,
            padding=padding,
            max_length=max_length,
            truncates=bool(truncation),
            return_tensors=return_tensors,
            marks_replies=return_assistant_tokens_mask,
        )
        return encoded if return_dict else encoded["input_ids"]

    def build_inputs_for_generation(
        self,
        model_input: BatchEncoding,
        max_gen_length: int = 512,
        targets: str | Sequence[str] | None = None,
        padding: bool = False,
    ) -> BatchEncoding:
        """Texts with a blank as GLM 2021 fills them; see `with_blank`."""
        spans = None
        if targets is not None:
            spans = [
                self.inner.encode(t) for t in ([targets] if isinstance(targets, str) else targets)
            ]
        return with_blank(
            model_input["input_ids"],
            model_input["attention_mask"],
            blanks=self.mask_token_ids,
            sop=self.sop_token_id,
            eop=self.eop_token_id,
            pad=self.pad_token_id,
            room=max_gen_length,
            spans=spans,
            fills_room=padding,
        )


class ChatGLM4Tokenizer(ChatGLMTokenizer):
    """GLM-4's in the `chatglm` format."""


class GLMChineseTokenizer(ChatGLMTokenizer):
    """GLM 2021's Chinese one."""


class GLMGPT2Tokenizer(ChatGLMTokenizer):
    """GLM 2021's with GPT-2's vocabulary."""


class GLMRobertaTokenizer(ChatGLMTokenizer):
    """GLM 2021's with RoBERTa's vocabulary."""


class GLMBertTokenizer(ChatGLMTokenizer):
    """GLM 2021's with BERT's vocabulary."""


TOKENIZERS = (
    ChatGLMTokenizer,
    ChatGLM4Tokenizer,
    GLMChineseTokenizer,
    GLMGPT2Tokenizer,
    GLMRobertaTokenizer,
    GLMBertTokenizer,
)
