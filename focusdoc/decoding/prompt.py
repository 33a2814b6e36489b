"""Prompts: the local context of a question, in the model's format, and the request around it.

Asking and training build prompts with the same code. Text from users and documents is encoded as plain text; special
tokens come from the chat template only.
"""

from __future__ import annotations

import operator
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from torch import Tensor

from focusdoc.config import FocusConfig, GenerationConfig, Grammar, at_least
from focusdoc.documents import Document, TokenizedText, tokenize
from focusdoc.errors import ConfigError, PromptTooLongError
from focusdoc.memory.chunk_memory import DocumentMemory, MemoryBlock
from focusdoc.modeling.base import BaseModel
from focusdoc.texts import check_text

PromptStyle = Literal["auto", "chat", "plain"]
#: Renders a local context with the given passages; returns token ids.
RenderQuoted = Callable[[str], Sequence[int]]
#: For chat models; short, because every chunk reads it with every question.
SYSTEM_PROMPT = "Answer from the document."
#: Separates the parts of a message, and joined messages.
GAP = "\n\n"


class Options(TypedDict, total=False):
    """Options of a question; those not listed here are fields of `focusdoc.config.GenerationConfig`.

    Attributes:
        style: the prompt format, see `question_prompt`.
        overview: whether the question is about the whole document, so that a reader gets passages of all chunks; None
            to decide by English keywords, such as "summarize".
        max_sources: maximum number of sources, at least 0 (default 3); each takes a pass over one chunk.
        cancel: set it from another thread to end the answer after the current token.
    """

    style: PromptStyle
    overview: bool | None
    max_sources: int
    cancel: threading.Event | None
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    stop: str | Sequence[str]
    seed: int | None
    ignore_eos: bool
    grammar: Grammar | None


@dataclass(frozen=True, slots=True)
class Request:
    """A question or prompt to answer, with its settings.

    Attributes:
        memories: of the documents; empty if there are none, or they are not read yet.
        has_documents: whether there are documents, read or not.
        local_ids, prompt_ids: see `focusdoc.decoding.generation.AnswerDecoder.start`.
        tokenizer: of the base model.
        messages: the conversation in the prompt as (role, content) pairs, ending with the question; empty if the prompt
            is not a conversation.
        quoted: renders the prompt again with passages in it, ending with the same token; None to quote none.
        overview, max_sources, cancel: see `Options`.
    """

    memories: Sequence[DocumentMemory]
    local_ids: Sequence[int]
    prompt_ids: Sequence[int]
    settings: GenerationConfig
    tokenizer: Any
    messages: Sequence[tuple[str, str]] = ()
    quoted: RenderQuoted | None = None
    overview: bool | None = None
    max_sources: int = 3
    cancel: threading.Event | None = None
    has_documents: bool = True

    def __post_init__(self) -> None:
        at_least("max_sources", self.max_sources, 0)

    @property
    def blocks(self) -> list[MemoryBlock]:
        """The chunks of all memories, in order."""
        return [block for memory in self.memories for block in memory.blocks]

    @classmethod
    def from_question(
        cls, base: BaseModel, config: FocusConfig, memories: Sequence[DocumentMemory], question: str, options: Options
    ) -> Request:
        """A request for a question in words; `config` has all settings resolved. Raises as `from_ids`."""
        style = options.get("style", "auto")

        def render(quoted: str = "") -> list[int]:
            with base.tokenizer_lock:
                return question_prompt(tokenizer_of(base), question, style, quoted)

        return cls.from_ids(base, config, memories, render(), options, messages=[("user", question)], quoted=render)

    @classmethod
    def from_ids(
        cls,
        base: BaseModel,
        config: FocusConfig,
        memories: Sequence[DocumentMemory],
        input_ids: Sequence[int],
        options: Options,
        **fields: Any,
    ) -> Request:
        """A request for a local context rendered by the caller; `fields` are further attributes.

        Raises:
            ConfigError: there is no tokenizer, an id is not in the vocabulary, or an option is out of range.
            PromptTooLongError: the context does not fit the local window.
        """
        ids = flat_ids(input_ids, base.config.vocab_size)
        if len(ids) > config.local_window and fields.get("has_documents", True):
            raise PromptTooLongError(
                f"The question takes {len(ids)} tokens with its template, more than the local window of "
                f"{config.local_window}; shorten it, or raise local_window."
            )
        generation: dict[str, Any] = {name: value for name, value in options.items() if name != "style"}
        fields |= {name: generation.pop(name) for name in ("overview", "max_sources", "cancel") if name in generation}
        settings = GenerationConfig(**generation)
        local_ids, prompt_ids = local_and_prompt(base, config, ids) if fields.get("has_documents", True) else (ids, ids)
        return cls(memories, local_ids, prompt_ids, settings, tokenizer_of(base), **fields)


def tokenizer_of(base: BaseModel) -> Any:
    """The model's tokenizer. ConfigError: it has none."""
    if base.tokenizer is None:
        raise ConfigError(
            f"{base.name} came without a tokenizer, so it can neither read text nor be asked in words; "
            "pass tokenizer=, put tokenizer.json beside the weights, or use generate(input_ids)."
        )
    return base.tokenizer


def tokenize_document(base: BaseModel, config: FocusConfig, document: Document) -> TokenizedText:
    """The tokens of a document, with a BOS if the mode needs one. ConfigError: the model has no tokenizer."""
    with base.tokenizer_lock:
        tokenized = tokenize(tokenizer_of(base), document.text)
    # As the authors' tokenizer does (paper_mode section 1.4).
    return tokenized.with_bos(bos_token(base, config)) if config.uses_bos else tokenized


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text`, in which special tokens are plain text. ConfigError: it has a lone surrogate."""
    check_text(text, "The text")
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return ids


def encode_messages(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Token ids of a conversation of (role, content) pairs, up to where the assistant's answer begins.

    Consecutive messages of one role are joined; if the template has no system role, the system message is put in front
    of the user's. The template is rendered with placeholders and contents are encoded separately, so no content can
    inject template tokens.

    Raises:
        ConfigError: the template drops, repeats or reorders messages.
    """
    turns = merge_turns(messages)
    try:
        return _encode_turns(tokenizer, turns)
    except Exception as error:
        # A template without a system role raises jinja2's TemplateError, or silently drops the message.
        if type(error).__name__ != "TemplateError" and not isinstance(error, ConfigError):
            raise
        return _encode_turns(
            tokenizer, merge_turns(("user" if role == "system" else role, text) for role, text in turns)
        )


def merge_turns(turns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(role, content) messages with consecutive ones of a role joined: many templates require alternating roles."""
    found: list[tuple[str, str]] = []
    for role, text in turns:
        if found and found[-1][0] == role:
            found[-1] = (role, GAP.join((found[-1][1], text)))
        else:
            found.append((role, text))
    return found


def _encode_turns(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> list[int]:
    marks = [f"\ue000{secrets.token_hex(8)}\ue001" for _ in messages]
    turns = [{"role": role, "content": mark} for (role, _), mark in zip(messages, marks, strict=True)]
    rendered: str = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    any_mark = "|".join(marks)
    if re.findall(any_mark, rendered) != marks:
        raise ConfigError("The model's chat template drops, repeats or reorders messages; use the plain prompt style.")
    *before, after = re.split(any_mark, rendered)
    ids: list[int] = []
    for part, (_, content) in zip(before, messages, strict=True):
        ids += _without_prefix(tokenizer, part, _encode_template) if ids else _encode_template(tokenizer, part)
        ids += _without_prefix(tokenizer, content, encode_text)
    return ids + _without_prefix(tokenizer, after, _encode_template)


def _encode_template(tokenizer: Any, text: str) -> list[int]:
    """Token ids of template text, including special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _without_prefix(tokenizer: Any, text: str, encode: Callable[[Any, str], list[int]]) -> list[int]:
    """Token ids of a text that continues another one.

    Some tokenizers (Llama 2) add a space in front of any text. To avoid it, encode the text after a line break and
    remove the line break's tokens.
    """
    if encode(tokenizer, "a") == encode(tokenizer, " a") or not text:
        guard = encode(tokenizer, "\n")
        guarded = encode(tokenizer, "\n" + text)
        if guarded[: len(guard)] == guard:
            return guarded[len(guard) :]
    return encode(tokenizer, text)


def question_prompt(tokenizer: Any, question: str, style: PromptStyle = "auto", quoted: str = "") -> list[int]:
    """Token ids of the local context of `question`, up to where the answer begins.

    Args:
        style: ``"chat"`` for the tokenizer's chat template, ``"plain"`` for a question-and-answer continuation,
            ``"auto"`` for the chat template if there is one.
        quoted: passages to put in front of the question.

    Raises:
        ConfigError: the question is empty or not a string, ``"chat"`` is used without a chat template, or the template
            cannot hold a question.
    """
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"The question {question!r} is empty or no text; ask something.")
    if style not in ("auto", "chat", "plain"):
        raise ConfigError(f"style is {style!r}; choose 'auto', 'chat' or 'plain'.")
    check_text(question, "The question")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if style == "chat" and not has_template:
        raise ConfigError("This model's tokenizer has no chat template; use the prompt style 'plain' or 'auto'.")
    if style == "plain" or not has_template:
        text = with_passages(f"Question: {question}\nAnswer:", quoted)
        return bos_prefix(tokenizer) + encode_text(tokenizer, text)
    return encode_messages(tokenizer, [("system", SYSTEM_PROMPT), ("user", with_passages(question, quoted))])


def with_passages(text: str, quoted: str) -> str:
    """`text` preceded by quoted passages, if any."""
    return f"{quoted}\n\n{text}" if quoted else text


def bos_prefix(tokenizer: Any) -> list[int]:
    """The BOS token, if the tokenizer adds one in front of a text."""
    ids = tokenizer("a")["input_ids"]
    return [ids[0]] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else []


def local_and_prompt(base: BaseModel, config: FocusConfig, ids: list[int]) -> tuple[list[int], list[int]]:
    """The local context, and the dynamic prompt cut from its tail.

    In refresh mode the prompt is at most a chunk long (paper_mode section 1.3: p = min(512, S, local size)). Under the
    BOS rule, both begin with the BOS token. There is at least one token, and ``config.chunk_size`` is resolved.
    """
    window = config.prompt_window
    if config.local_attention == "refresh":
        window = min(window, config.chunk_size or window)
    prompt_ids = ids[-window:]
    if not config.uses_bos:
        return ids, prompt_ids
    bos = bos_token(base, config)
    return ids if ids[0] == bos else [bos, *ids], prompt_ids if prompt_ids[0] == bos else [bos, *prompt_ids]


def bos_token(base: BaseModel, config: FocusConfig) -> int:
    """The BOS token of the configuration, or else the model's. ConfigError: neither has one."""
    bos = config.bos_token_id
    if bos is None:
        bos = getattr(base.config, "bos_token_id", None)
    if not isinstance(bos, int):
        raise ConfigError(f"{base.name} names no BOS token; set FocusConfig.bos_token_id, or prompt_bos=False.")
    return bos


def flat_ids(input_ids: Sequence[int] | Tensor, vocab_size: int) -> list[int]:
    """Token ids as a list; a tensor may be [n] or [1, n].

    Raises:
        ConfigError: they are not one non-empty sequence of ids in the vocabulary.
    """
    if isinstance(input_ids, Tensor):
        if input_ids.dim() == 2 and input_ids.shape[0] == 1:
            input_ids = input_ids[0]
        if input_ids.dim() != 1:
            raise ConfigError(f"input_ids has the shape {tuple(input_ids.shape)}; pass one sequence, [n] or [1, n].")
        input_ids = input_ids.tolist()
    try:
        ids = [operator.index(token) for token in input_ids]
    except TypeError as error:
        raise ConfigError(f"input_ids must be one sequence of whole numbers ({error}).") from error
    if not ids:
        raise ConfigError("input_ids is empty; pass at least one token.")
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise ConfigError(f"input_ids holds {wrong}; the model's tokens are 0 to {vocab_size - 1}.")
    return ids
