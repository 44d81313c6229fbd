"""The same object over a service that speaks OpenAI's protocol: source `openai/MODEL`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Unpack

from chatglm.errors import missing_extra
from chatglm.generation.history import as_messages, checked, conversation, with_turn
from chatglm.generation.reply import ReplyStream
from chatglm.messages import Message

if TYPE_CHECKING:
    from openai import OpenAI

    from chatglm.generation.chat import Options
    from chatglm.generation.history import History


NUM_CONNECTIONS = 8


class RemoteChatGLM:
    """A model behind OPENAI_BASE_URL (default: OpenAI), asked with OPENAI_API_KEY.

    name: the service's model; `ChatGPT` takes OPENAI_MODEL, else the service's current chat model.
    """

    def __init__(self, name: str) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise missing_extra("openai", "remote") from error
        if not os.environ.get("OPENAI_API_KEY"):
            raise ValueError(
                "OPENAI_API_KEY is not set; set it (and OPENAI_BASE_URL for another service than "
                "OpenAI), or use ChatGLM.from_pretrained(), which needs no key"
            )
        self.client = OpenAI()
        self.name = name if name != "ChatGPT" else self.current_model()

    def current_model(self) -> str:
        """OPENAI_MODEL, else the newest `…chat…latest` of the service, else its first model."""
        if name := os.environ.get("OPENAI_MODEL"):
            return name
        with one_sentence(self.client, "its list of models"):
            models = list(self.client.models.list())
        if not models:
            raise ValueError(f"{self.client.base_url} lists no model; set OPENAI_MODEL")
        chat = [m for m in models if "chat" in m.id and m.id.endswith("latest")]
        return max(chat, key=lambda m: m.created).id if chat else models[0].id

    def generate(self, text: str, *, system: str | None = None, **options: Unpack[Options]) -> str:
        """One reply."""
        return "".join(self.stream(text, system=system, **options))

    def stream(
        self, text: str, *, system: str | None = None, **options: Unpack[Options]
    ) -> ReplyStream:
        """`generate` in pieces."""
        return self.stream_messages(conversation(text, None, system), **options)

    def chat(
        self,
        query: str,
        history: History | None = None,
        *,
        system: str | None = None,
        **options: Unpack[Options],
    ) -> tuple[str, list[object]]:
        """A reply and the history with this turn added, in the form that the history came in."""
        *_, last = self.stream_chat(query, history, system=system, **options)
        return last

    def stream_chat(
        self,
        query: str,
        history: History | None = None,
        *,
        system: str | None = None,
        **options: Unpack[Options],
    ) -> Iterator[tuple[str, list[object]]]:
        """The reply so far and the history with it, after every piece."""
        reply = ""
        for piece in self.stream_messages(conversation(query, history, system), **options):
            reply += piece
            yield reply, with_turn(history, query, reply)
        if not reply:
            yield reply, with_turn(history, query, reply)

    def stream_messages(
        self, messages: Sequence[Message], **options: Unpack[Options]
    ) -> ReplyStream:
        """The reply to a conversation, in pieces."""
        return RemoteReply(self.client, self.name, messages, self.settings(options))

    def generate_many(
        self, texts: Sequence[str], *, system: str | None = None, **options: Unpack[Options]
    ) -> list[str]:
        """`generate` of each text, over several connections at a time."""
        settings = self.settings(options)
        talks = [conversation(text, None, system) for text in texts]
        return self.reply_to(talks, settings)

    def chat_many(self, conversations: Sequence[History], **options: Unpack[Options]) -> list[str]:
        """The reply to each conversation, over several connections at a time."""
        settings = self.settings(options)
        return self.reply_to([as_messages(turns) for turns in conversations], settings)

    def reply_to(
        self, talks: Sequence[Sequence[Message]], settings: dict[str, object]
    ) -> list[str]:
        """The replies to conversations, in their order."""
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            return list(
                pool.map(
                    lambda talk: "".join(RemoteReply(self.client, self.name, talk, settings)), talks
                )
            )

    def complete(self, text: str, **options: Unpack[Options]) -> str:
        """What follows the text, without any chat format, where the service offers that."""
        settings = self.settings(options)
        if "max_completion_tokens" in settings:
            settings["max_tokens"] = settings.pop("max_completion_tokens")
        with one_sentence(self.client, self.name):
            answer = self.client.completions.create(  # type: ignore[call-overload]
                model=self.name, prompt=checked(text), **settings
            )
        return str(answer.choices[0].text)

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """A vector for each text, where the service offers that."""
        given = [texts] if isinstance(texts, str) else list(texts)
        if not given:
            raise ValueError("texts is empty; give at least one text")
        with one_sentence(self.client, self.name):
            answer = self.client.embeddings.create(model=self.name, input=given)
        return [row.embedding for row in answer.data]

    def settings(self, options: Options) -> dict[str, object]:
        """Options in the service's words; one that the protocol lacks is refused."""
        settings: dict[str, object] = {}
        for name, value in options.items():
            if value is None:
                continue
            if name == "max_new_tokens":
                settings["max_completion_tokens"] = value
            elif name in _SHARED:
                settings[name] = value
            else:
                raise ValueError(
                    f"{name} is not part of OpenAI's protocol; leave it out for {self.name}"
                )
        return settings


_SHARED = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "stop",
    "seed",
)


class RemoteReply(ReplyStream):
    """A reply that a service streams."""

    def __init__(
        self,
        client: OpenAI,
        name: str,
        messages: Sequence[Message],
        settings: dict[str, object],
    ) -> None:
        self.client, self.name, self.messages, self.settings = client, name, messages, settings
        super().__init__()

    def pieces(self) -> Generator[str]:
        """The pieces as the service sends them."""
        with one_sentence(self.client, self.name):
            stream = self.client.chat.completions.create(  # type: ignore[call-overload]
                model=self.name,
                messages=[message.to_dict() for message in self.messages],
                stream=True,
                stream_options={"include_usage": True},
                **self.settings,
            )
            with stream:
                for chunk in stream:
                    if chunk.usage is not None:
                        self.num_prompt = chunk.usage.prompt_tokens
                        self.num_new = chunk.usage.completion_tokens
                    for choice in chunk.choices:
                        self.finish = choice.finish_reason or self.finish
                        if choice.delta.content:
                            yield choice.delta.content


@contextmanager
def one_sentence(client: OpenAI, what: str) -> Iterator[None]:
    """The client's errors as ConnectionError or ValueError with a remedy."""
    import openai

    try:
        yield
    except openai.APIConnectionError as error:
        raise ConnectionError(
            f"{client.base_url} cannot be reached ({error}); check OPENAI_BASE_URL and the network"
        ) from error
    except openai.AuthenticationError as error:
        raise ValueError(f"{client.base_url} refuses the key; check OPENAI_API_KEY") from error
    except openai.APIStatusError as error:
        raise ValueError(
            f"{client.base_url} answers {error.status_code} for {what}: {error.message}"
        ) from error
