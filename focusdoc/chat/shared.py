"""A process-wide cache of chats by their loading settings.

It is focusdoc's only global state: frameworks create many model objects, which must not load the weights each time.
`clear_shared_chats` empties it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from focusdoc.chat.settings import refuse_unknown
from focusdoc.errors import ConfigError

if TYPE_CHECKING:
    from focusdoc.chat.conversation import Chat
    from focusdoc.engine import FocusEngine
    from focusdoc.readers import Reader

#: The settings of loading a model without a reader, and their defaults.
_DEFAULTS = {
    **dict.fromkeys(("model", "config", "cluster")),
    **dict.fromkeys(("adapter", "device", "dtype", "attention", "store"), "auto"),
}
#: The settings of loading a model; see `shared_chat`.
LOADING = (*_DEFAULTS, "reader", "reader_model")
_chats: dict[tuple[object, ...], LazyChat] = {}
_lock = threading.Lock()


class LazyChat:
    """A chat that is created once, on first use, thread-safe; a deep copy is the same object.

    It shares the model of `weights`, if given.
    """

    def __init__(self, make: Callable[[], Chat], weights: LazyChat | None = None) -> None:
        self._make = make
        self._weights = weights
        self._chat: Chat | None = None
        self._lock = threading.Lock()

    @classmethod
    def given(cls, engine: FocusEngine | Chat | LazyChat | None, settings: Any) -> LazyChat | None:
        """The chat for the setting ``engine`` of `settings`; an existing chat's memories are then shared.

        Raises:
            ConfigError: `settings` also has some for loading an engine.
        """
        if engine is None or isinstance(engine, LazyChat):
            return engine
        fields = type(settings).model_fields
        for name in LOADING:
            if getattr(settings, name) != fields[name].default:
                raise ConfigError(f"engine= is already loaded, so {name}= has no effect; remove one of them.")

        def make() -> Chat:
            from focusdoc.chat.conversation import Chat

            return engine if isinstance(engine, Chat) else Chat(engine, settings.max_memory_bytes)

        return cls(make)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._chat is not None or (self._weights is not None and self._weights.is_loaded)

    def __deepcopy__(self, memo: dict[int, object]) -> LazyChat:
        """Return itself, since weights are never copied."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse pickling with a ConfigError, since weights are not pickled."""
        raise ConfigError(
            "An object made from engine= cannot be pickled, since its weights would be copied; make it from model= (a "
            "folder or a hub name), which is loaded again when unpickled."
        )

    def get(self) -> Chat:
        """The chat; loads its model on first use."""
        with self._lock:
            if self._chat is None:
                self._chat = self._make()
            return self._chat


def shared_chat(
    model: str | Path | None = None,
    *,
    reader: Reader | str | Path | None = None,
    reader_model: str | None = None,
    max_memory_bytes: int | None = None,
    **others: Any,
) -> LazyChat:
    """The chat of `FocusEngine.from_pretrained` with these settings; the same object for the same settings.

    Chats that differ only in their readers share a model, its cluster and its memories. A `Reader` object gets a new
    chat at every call, which is cheap, since the caller already has the reader.

    Args:
        others: some of `LOADING`.
    """
    refuse_unknown(others, _DEFAULTS, "shared_chat")
    loading = {**_DEFAULTS, "model": model, **others}

    def make() -> Chat:
        from focusdoc.chat.conversation import Chat
        from focusdoc.engine import FocusEngine

        return Chat(FocusEngine.from_pretrained(**loading), max_memory_bytes)

    def read() -> Chat:
        from focusdoc.readers import open_reader

        where = {name: loading[name] for name in ("device", "dtype")}
        return alone.get().with_reader(open_reader(reader, reader_model=reader_model, **where))

    # As text, so that a path and its string are the same, and 2 and "2" of a cluster; the type keeps None apart.
    key = (*((value is None, str(value)) for value in loading.values()), max_memory_bytes)
    with _lock:
        alone = _chats.setdefault(key, LazyChat(make))
        if reader is None and reader_model is None:
            return alone
        if reader is None or isinstance(reader, str | Path):
            return _chats.setdefault((*key, str(reader), reader_model), LazyChat(read))
    return LazyChat(read, alone)


def clear_shared_chats() -> None:
    """Empty the cache; the next call loads again. Memory is freed when the last answer has ended."""
    with _lock:
        _chats.clear()
