"""ChatFocusLLM: a chat model for chains, with structured output by constrained decoding."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, Field, field_validator, model_validator

from focusdoc.chat.settings import call_settings, known_fields, one_or_many, reader_of, refuse_unknown
from focusdoc.chat.shared import LOADING, LazyChat, shared_chat
from focusdoc.chat.threads import last_answer, run_in_thread, stream_in_thread
from focusdoc.config import FocusConfig
from focusdoc.errors import FocusdocError
from focusdoc.modeling.catalogue import DEFAULT_MODEL
from langchain_focusdoc.errors import as_langchain_errors
from langchain_focusdoc.messages import metadata_of, to_messages, usage_of
from langchain_focusdoc.structured import grammar_of, structured_output

if TYPE_CHECKING:
    from collections.abc import Generator

    from focusdoc.chat.conversation import Chat
    from focusdoc.decoding.answer import TextPiece
    from focusdoc.readers import Reader

#: Parameters of remote LangChain chat models, which are ignored.
_IGNORED = frozenset({"api_key", "base_url", "timeout", "max_retries"})
#: Settings of an object and of its calls, and their names in a call: LangChain's, and focusdoc's.
_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
_CALL_SETTINGS = {**{name: name for name in (*_SETTINGS, "max_new_tokens")}, "max_tokens": "max_new_tokens"}
#: Other keyword arguments of a call.
_CALL_EXTRAS = frozenset(
    {"model", "cancel", "response_format", "ls_structured_output_format", "stream", "stream_usage"}
)


class ChatFocusLLM(BaseChatModel):
    """A local chat model for prompts far longer than its context (FocusLLM, arXiv 2408.11745).

    A prompt that fits into the local window goes to the model unchanged. In a longer one, the text between instructions
    and question is read into a memory, once; later calls with the same text reuse it, which
    ``usage_metadata["input_token_details"]["cache_read"]`` shows. The model is loaded at the first call, and all
    objects with the same settings share it. A `reader` answers short prompts by itself, and long ones from their frame
    and the passages that the model finds.

    Example:
        ```python
        from langchain_focusdoc import ChatFocusLLM

        llm = ChatFocusLLM()  # the default model; runs offline on a CPU
        print(llm.invoke("What is the capital of France?").content)
        ```

    Raises:
        FocusRequestError: in calls: an empty prompt, images, tools, a setting out of range.
        FocusContextOverflowError: a prompt does not fit into the memory.
        focusdoc.errors.ReaderError: the reader cannot be reached or fails; `.sources` has the passages.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    model: str | None = Field(default=None, alias="model_name")
    """A name of the catalogue, a folder or a hub name; None for the default."""
    adapter: str | None = "auto"
    """A folder, a file, "auto" for the shipped one, or None."""
    config: FocusConfig | None = None
    """Chunk size, local window and decode mode; None for the adapter's."""
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    store: str | None = "auto"
    """The document store on disk: "auto", a folder, or None."""
    reader: Any | None = None
    """The model that answers from the passages that `model` finds: a name, a folder or a hub name, the address of an
    OpenAI-compatible endpoint, or a LangChain chat model; None for `model` itself."""
    reader_model: str | None = None
    """The model name at the reader's endpoint."""
    cluster: int | str | None = None
    """Where the chunks are kept: a number of processes on this machine, "auto" or the address of a Ray cluster; None
    for this process."""
    max_memory_bytes: int | None = Field(default=None, ge=1)
    """Bytes for memories; None for half of the RAM."""
    max_tokens: int = Field(default=256, ge=1)
    """Most new tokens."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 for greedy decoding."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    seed: int | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Stop strings; a single one may be a plain string."""
    streaming: bool = False
    """Whether `invoke` streams as well."""
    max_sources: int = Field(default=3, ge=0)
    """Most sources of an answer."""

    engine: Any | None = Field(default=None, exclude=True, repr=False)
    """A `focusdoc.FocusEngine` (or a `focusdoc.Chat` to share its memories), instead of the settings for loading."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = {name: value for name, value in values.items() if name not in _IGNORED}
        return known_fields(cls, values)

    @model_validator(mode="after")
    def _engine_of_ones_own(self) -> ChatFocusLLM:
        self.engine = LazyChat.given(self.engine, self)
        return self

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return one_or_many(value)

    @field_validator("reader")
    @classmethod
    def _as_reader(cls, value: Any) -> Any:
        def wrap(model: BaseChatModel) -> Reader:
            from langchain_focusdoc.writing import LangChainReader

            return LangChainReader(model)

        return reader_of(value, BaseChatModel, wrap)

    @property
    def focus(self) -> LazyChat:
        """The chat backend, shared by all objects with the same settings; `.get()` loads it."""
        return self.engine or self._shared(self.model)

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, by the model's tokenizer."""
        with as_langchain_errors():
            return self.focus.get().encode(text)

    @property
    def _llm_type(self) -> str:
        return "focusdoc-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # The settings for loading identify a model without loading it.
        loading = repr({name: getattr(self, name) for name in LOADING})
        return {
            "model_name": self._model_name,
            "engine": self.engine.get().identity if self.engine else loading,
            **{name: getattr(self, name) for name in (*_SETTINGS, "stop", "max_sources")},
        }

    @property
    def _model_name(self) -> str:
        own: LazyChat | None = self.engine
        return own.get().engine.base.name if own else self.model or DEFAULT_MODEL

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        given = {name: value for name, value in kwargs.items() if value is not None}
        params = LangSmithParams(
            ls_provider="focusdoc",
            ls_model_name=given.get("model", self._model_name),
            ls_model_type="chat",
            ls_temperature=given.get("temperature", self.temperature),
            ls_max_tokens=given.get("max_tokens", self.max_tokens),
        )
        if stops := one_or_many(stop or self.stop):
            params["ls_stop"] = stops
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat, pieces = self._pieces(messages, stop, kwargs)
        with as_langchain_errors():
            answer = last_answer(pieces)
        metadata = metadata_of(answer, chat.engine)
        message = AIMessage(content=answer.text, usage_metadata=usage_of(answer), response_metadata=metadata)
        llm_output = {"model_name": metadata["model_name"]}
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=llm_output)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages, stop, kwargs):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await run_in_thread(
            lambda cancel: self._generate(messages, stop, None, **{**kwargs, "cancel": cancel}), kwargs.get("cancel")
        )

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunks = await stream_in_thread(
            lambda cancel: self._chunks(messages, stop, {**kwargs, "cancel": cancel}), kwargs.get("cancel")
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def with_structured_output(
        self,
        schema: Any,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "json_mode", "function_calling"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A chain whose answers are objects of `schema`, by constrained decoding.

        Args:
            schema: a pydantic class, a dataclass, an Enum, a Literal or ``list[...]`` for objects; a TypedDict, a JSON
                schema or an OpenAI function for plain values.
            include_raw: return a dictionary with the raw message, the parsed object and the parsing error.
            method: all three have the same effect, and `strict` is always on; they exist for chains that were written
                for other models.

        Raises:
            FocusRequestError: the schema cannot be used. FocusIncompleteAnswerError: in the chain, if an answer does
                not end within `max_tokens`; with `include_raw` it is the parsing error.
        """
        with as_langchain_errors():
            refuse_unknown(kwargs, ("include_raw", "method", "strict"), "with_structured_output")
        return structured_output(self, schema, include_raw=include_raw, method=method, strict=strict)

    def _chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> Generator[ChatGenerationChunk, None, None]:
        chat, pieces = self._pieces(messages, stop, kwargs)

        def chunks() -> Generator[ChatGenerationChunk, None, None]:
            with as_langchain_errors():
                piece = None
                for piece in pieces:
                    end: dict[str, Any] = {}
                    if piece.answer is not None:
                        end = {"usage_metadata": usage_of(piece.answer), "chunk_position": "last"}
                        end["response_metadata"] = metadata_of(piece.answer, chat.engine)
                    yield ChatGenerationChunk(message=AIMessageChunk(content=str(piece), **end))
                if piece is None:
                    raise FocusdocError("The call was cancelled while its documents were read.")

        return chunks()

    def _pieces(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[Chat, Generator[TextPiece, None, None]]:
        settings = self._settings(stop, kwargs)
        cancel: threading.Event | None = kwargs.get("cancel")
        model = kwargs.get("model")
        chat = (self.focus if model is None else self._shared(model)).get()
        with as_langchain_errors():
            conversation = to_messages(messages)
            if kwargs.get("response_format") is not None:
                settings["grammar"] = grammar_of(chat, kwargs["response_format"])
            return chat, chat.stream(conversation, max_sources=self.max_sources, cancel=cancel, **settings)

    def _settings(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """focusdoc's settings of a call: those of this object, overridden by the call's."""
        own = {_CALL_SETTINGS[name]: getattr(self, name) for name in _SETTINGS}
        own["stop"] = tuple(one_or_many(stop if stop is not None else self.stop or ()))
        with as_langchain_errors():
            return call_settings("ChatFocusLLM", own, kwargs, _CALL_SETTINGS, _CALL_EXTRAS | _IGNORED)

    def _shared(self, model: str | None) -> LazyChat:
        settings = {name: getattr(self, name) for name in LOADING} | {"model": model}
        return shared_chat(**settings, max_memory_bytes=self.max_memory_bytes)
