"""One chat for each way of loading, shared by every object that asks for it in this process.

This cache is the one global state of focusdoc: frameworks build their model objects again and again, and a model's
weights must not be loaded for each. `clear_shared_chats` empties it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from focusdoc.chat.settings import check_alone
from focusdoc.errors import ConfigError

if TYPE_CHECKING:
    from focusdoc.chat.conversation import Chat
    from focusdoc.config import FocusConfig
    from focusdoc.engine import FocusEngine
    from focusdoc.readers import Reader

_chats: dict[tuple[object, ...], LazyChat] = {}
_lock = threading.Lock()


class LazyChat:
    """A chat that is made when it is first needed, once, whichever thread comes first.

    Copies of an object that holds one hold the same one.

    Args:
        weights: the chat whose model it uses, where it brings none of its own.
    """

    def __init__(self, make: Callable[[], Chat], weights: LazyChat | None = None) -> None:
        self._make = make
        self._weights = weights
        self._chat: Chat | None = None
        self._lock = threading.Lock()

    @classmethod
    def given(cls, engine: FocusEngine | Chat | LazyChat | None, settings: Any) -> LazyChat | None:
        """The chat of an engine that is there, or of a chat itself (then its memories are shared); None for None.

        Args:
            settings: the object that it was given to, which says besides how to load one.

        Raises:
            ConfigError: the settings say how to load one.
        """
        if engine is None or isinstance(engine, LazyChat):
            return engine
        check_alone(settings)
        return cls.of(engine, settings.max_memory_bytes)

    @classmethod
    def of(cls, engine: FocusEngine | Chat, max_memory_bytes: int | None = None) -> LazyChat:
        """The chat of an engine that is there, or of a chat itself (then its memories are shared)."""

        def make() -> Chat:
            from focusdoc.chat.conversation import Chat

            return engine if isinstance(engine, Chat) else Chat(engine, max_memory_bytes)

        return cls(make)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._chat is not None or (self._weights is not None and self._weights.is_loaded)

    def __deepcopy__(self, memo: dict[int, object]) -> LazyChat:
        """Itself: weights are never copied."""
        return self

    def __reduce__(self) -> NoReturn:
        """Pickling it.

        Raises:
            ConfigError: always; weights do not travel this way.
        """
        raise ConfigError(
            "An object made from engine= cannot be pickled, since its weights would have to go along; make it from "
            "model= (a folder or a hub name), which is found again where it is unpickled."
        )

    def get(self) -> Chat:
        """The chat; loads its model the first time."""
        with self._lock:
            if self._chat is None:
                self._chat = self._make()
            return self._chat


def shared_chat(
    model: str | Path | None = None,
    *,
    adapter: str | Path | None = "auto",
    config: FocusConfig | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "auto",
    store: str | Path | None = "auto",
    reader: Reader | str | Path | None = None,
    reader_model: str | None = None,
    max_memory_bytes: int | None = None,
) -> LazyChat:
    """The chat of `FocusEngine.from_pretrained` with these settings; the same object for the same settings.

    Chats that differ in their readers alone share one model and its memories. One with a `Reader` is made for each
    call, and costs nothing: who asks holds the reader.
    """

    def make() -> Chat:
        from focusdoc.chat.conversation import Chat
        from focusdoc.engine import FocusEngine

        engine = FocusEngine.from_pretrained(
            model, adapter=adapter, config=config, device=device, dtype=dtype, attention=attention, store=store
        )
        return Chat(engine, max_memory_bytes)

    def read() -> Chat:
        from focusdoc.readers import open_reader

        return alone.get().with_reader(open_reader(reader, reader_model=reader_model, device=device, dtype=dtype))

    key = (str(model), str(adapter), config, device, dtype, attention, str(store), max_memory_bytes)
    with _lock:
        alone = _chats.setdefault(key, LazyChat(make))
        if reader is None and reader_model is None:
            return alone
        if reader is None or isinstance(reader, str | Path):
            return _chats.setdefault((*key, str(reader), reader_model), LazyChat(read))
    return LazyChat(read, alone)


def clear_shared_chats() -> None:
    """Forget every shared chat; whoever asks next loads anew. Memory is freed when the last answer has ended."""
    with _lock:
        _chats.clear()
