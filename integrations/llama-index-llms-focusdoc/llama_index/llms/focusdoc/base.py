"""FocusLLM: the LLM for `Settings.llm`, chat engines and query engines."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import BaseModel, Field, field_serializer, field_validator, model_validator
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.focusdoc.messages import raw_of, sources_of, to_messages

from focusdoc.chat.messages import Message
from focusdoc.chat.settings import call_settings, known_fields, one_or_many, reader_of, refuse_unknown
from focusdoc.chat.shared import LOADING, LazyChat, shared_chat
from focusdoc.chat.structured import AnswerType
from focusdoc.chat.threads import run_in_thread, stream_in_thread
from focusdoc.config import FocusConfig
from focusdoc.errors import FocusdocError

if TYPE_CHECKING:
    from focusdoc.chat.conversation import Chat
    from focusdoc.decoding.answer import TextPiece
    from focusdoc.readers import Reader

R = TypeVar("R")
_NAMES = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed", "grammar")
#: focusdoc's names of call settings, by those that LlamaIndex may use.
_SETTINGS = {"max_tokens": "max_new_tokens", "stop_sequences": "stop", **{name: name for name in _NAMES}}


class FocusLLM(CustomLLM):
    """A local LLM for prompts far longer than its context (FocusLLM, arXiv 2408.11745).

    A prompt that fits into the local window goes to the model unchanged. In a longer one, the text between instructions
    and question is read into a memory, once; later calls with the same text reuse it. The model is loaded at the first
    call, and all objects with the same settings share it. A `reader` answers short prompts by itself, and long ones
    from their frame and the passages that the model finds.

    Examples:
        `pip install llama-index-llms-focusdoc`

        ```python
        from llama_index.core import Settings
        from llama_index.llms.focusdoc import FocusLLM

        Settings.llm = FocusLLM()  # the default model; runs offline on a CPU
        print(Settings.llm.complete("What is the capital of France?"))
        ```

    Raises:
        ValueError: an unknown setting; in calls, an empty prompt, images or tools, a setting out of range, a prompt
            that does not fit into the memory.
    """

    model: str | None = Field(default=None, description="A catalogue name, a folder or a hub name; None: the default.")
    adapter: str | None = Field(default="auto", description='A folder, a file, "auto" for the shipped one, or None.')
    config: FocusConfig | None = Field(default=None, description="Chunk size, local window and decode mode.")
    device: str = Field(default="auto", description='"auto", "cpu" or "cuda".')
    dtype: str = Field(default="auto", description='"auto", "float32" or "bfloat16".')
    attention: str = Field(default="auto", description='The attention kernel: "auto", "sdpa" or "naive".')
    store: str | None = Field(default="auto", description='The document store: "auto", a folder, or None.')
    reader: Any | None = Field(
        default=None,
        description="The model that answers from the passages found: a name, a folder or a hub name, the address of an "
        "OpenAI-compatible endpoint, or a LlamaIndex LLM; None: the model itself.",
    )
    reader_model: str | None = Field(default=None, description="The model name at the reader's endpoint.")
    cluster: int | str | None = Field(
        default=None,
        description='Where the chunks are kept: a number of processes on this machine, "auto" or the address of a Ray '
        "cluster; None: this process.",
    )
    max_memory_bytes: int | None = Field(default=None, description="Bytes for memories; None for half of RAM.", ge=1)
    max_new_tokens: int = Field(default=256, description="Most new tokens.", ge=1)
    temperature: float = Field(default=0.0, description="0 for greedy decoding.", ge=0.0)
    stop: list[str] = Field(default_factory=list, description="Stop strings; a single one may be a plain string.")
    max_sources: int = Field(default=3, description="Most sources of an answer.", ge=0)
    generate_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Further settings of every call: top_p, top_k, repetition_penalty, seed."
    )

    engine: Any | None = Field(
        default=None,
        description="A FocusEngine, or a Chat to share its memories, instead of the settings for loading.",
        exclude=True,
        repr=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        return known_fields(cls, values)

    @model_validator(mode="after")
    def _engine_of_ones_own(self) -> FocusLLM:
        self.engine = LazyChat.given(self.engine, self)
        return self

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return one_or_many(value)

    @field_validator("reader")
    @classmethod
    def _as_reader(cls, value: Any) -> Any:
        def wrap(llm: LLM) -> Reader:
            from llama_index.llms.focusdoc.writing import LlamaIndexReader

            return LlamaIndexReader(llm)

        return reader_of(value, LLM, wrap)

    @field_serializer("reader")
    def _named_reader(self, value: Any) -> str | None:
        """A name, folder or address unchanged; a description of an object, which cannot be deserialized."""
        return None if value is None else str(value)

    @field_validator("generate_kwargs")
    @classmethod
    def _known_of_calls(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse_unknown(value, _SETTINGS, "generate_kwargs")
        return value

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickling. LlamaIndex would drop what cannot be pickled, and then use another model or reader.

        Raises:
            ConfigError: the object was made from ``engine=``. TypeError and others: its reader cannot be pickled.
        """
        if self.engine is not None:
            self.engine.__reduce__()
        pickle.dumps(self.reader)
        return super().__getstate__()

    @classmethod
    def class_name(cls) -> str:
        """The class name in LlamaIndex's serialization."""
        return "FocusLLM"

    @property
    def focus(self) -> LazyChat:
        """The chat backend, shared by all objects with the same settings; `.get()` loads it."""
        settings = {name: getattr(self, name) for name in LOADING}
        return self.engine or shared_chat(**settings, max_memory_bytes=self.max_memory_bytes)

    @property
    def metadata(self) -> LLMMetadata:
        """The metadata for query engines; the context window is `Chat.context_window`. Loads the model."""
        chat = self.focus.get()
        return LLMMetadata(
            context_window=chat.context_window,
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=chat.engine.base.name,
        )

    def tokenizer(self, text: str) -> list[int]:
        """Token ids of a text; set ``Settings.tokenizer = llm.tokenizer`` to count the model's tokens in LlamaIndex."""
        return self.focus.get().encode(text)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to a prompt, which is put into the model's chat template unless it is `formatted`.

        The model itself continues a `formatted` prompt, even if there is a reader.

        Args:
            kwargs: settings of this call: max_tokens, temperature, top_p, top_k, repetition_penalty, stop, seed;
                ``cancel=``, a `threading.Event`, stops the answer after its current token.
        """
        return _last(self._completions(prompt, formatted, kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Like `complete`, as a stream; the last piece has usage and sources."""
        return self._completions(prompt, formatted, kwargs)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The next message of a conversation; settings as for `complete`."""
        return _last(self._chats(messages, kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Like `chat`, as a stream; the last piece has usage and sources."""
        return self._chats(messages, kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Like `complete`, in a thread; cancelling the task ends the answer."""
        return await run_in_thread(*_work(lambda given: _last(self._completions(prompt, formatted, given)), kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Like `stream_complete`, computed in a thread; closing the stream stops the answer."""
        return await stream_in_thread(*_work(lambda given: self._completions(prompt, formatted, given), kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Like `chat`, in a thread; cancelling the task ends the answer."""
        return await run_in_thread(*_work(lambda given: _last(self._chats(messages, given)), kwargs))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Like `stream_chat`, computed in a thread; closing the stream stops the answer."""
        return await stream_in_thread(*_work(lambda given: self._chats(messages, given), kwargs))

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> BaseModel:
        """The answer as an object of `output_cls`, by constrained decoding with its JSON schema.

        A dataclass, an Enum, a Literal or ``list[...]`` may be used instead of a class.

        Raises:
            IncompleteAnswerError: the answer did not end within max_new_tokens; also a ValueError.
        """
        kind = AnswerType.of(output_cls)
        grammar = self.focus.get().grammar(kind.schema)
        response = self.chat(prompt.format_messages(**prompt_args), **{**(llm_kwargs or {}), "grammar": grammar})
        text, raw = response.message.content or "", response.raw
        found: BaseModel = kind.parse(text, raw["finish_reason"], raw["usage"]["completion_tokens"])
        return found

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> BaseModel:
        """Like `structured_predict`, in a thread."""

        def predict(given: dict[str, Any]) -> BaseModel:
            return self.structured_predict(output_cls, prompt, given, **prompt_args)

        return await run_in_thread(*_work(predict, llm_kwargs or {}))

    def call_settings(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The settings of a call: those of this object, overridden by `kwargs`.

        Raises:
            ValueError: `kwargs` has an unknown setting, or tools.
        """
        own = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "stop": tuple(self.stop)}
        own = call_settings("FocusLLM", own, self.generate_kwargs, _SETTINGS)
        return call_settings("FocusLLM", own, kwargs, _SETTINGS)

    def _completions(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> CompletionResponseGen:
        if formatted:
            return self._responses(lambda chat: partial(chat.continue_text, prompt), CompletionResponse, kwargs)
        asked = [Message("user", self.completion_to_prompt(prompt) if self.completion_to_prompt else prompt)]
        return self._responses(lambda chat: partial(chat.stream, asked), CompletionResponse, kwargs)

    def _chats(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> ChatResponseGen:
        asked = to_messages(messages)
        return self._responses(lambda chat: partial(chat.stream, asked), _chat_response, kwargs)

    def _responses(
        self,
        begin: Callable[[Chat], Callable[..., Iterator[TextPiece]]],
        respond: Callable[..., R],
        kwargs: dict[str, Any],
    ) -> Generator[R, None, None]:
        """What `begin` of the chat yields for the settings of a call, as responses; the last has usage and sources."""
        cancel: threading.Event | None = kwargs.pop("cancel", None)
        settings = self.call_settings(kwargs)
        chat = self.focus.get()
        pieces = begin(chat)(max_sources=self.max_sources, cancel=cancel, **settings)

        def responses() -> Generator[R, None, None]:
            text = ""
            for piece in pieces:
                text += piece
                answer = piece.answer
                raw = raw_of(answer, chat.engine) if answer else None
                sources = sources_of(answer) if answer else {}
                yield respond(text=text, delta=str(piece), raw=raw, additional_kwargs=sources)

        return responses()


def _chat_response(text: str, additional_kwargs: dict[str, Any], **others: Any) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text, additional_kwargs=additional_kwargs)
    return ChatResponse(message=message, additional_kwargs=additional_kwargs, **others)


def _work(call: Callable[[dict[str, Any]], R], kwargs: dict[str, Any]) -> tuple[Callable[[threading.Event], R], Any]:
    """A call as work for a thread, which gets the event that ends it as ``cancel=``; and the caller's own event."""
    return lambda cancel: call({**kwargs, "cancel": cancel}), kwargs.get("cancel")


def _last(responses: Generator[R, None, None]) -> R:
    last = deque(responses, maxlen=1)
    if not last:
        raise FocusdocError("The call was cancelled before there was an answer.")
    return last[0]
