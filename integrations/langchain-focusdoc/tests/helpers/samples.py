"""Settings and texts that the tests share."""

from __future__ import annotations

from focusdoc import FocusConfig

SHORT = FocusConfig(chunk_size=256, local_window=256)


def planted(city: str, code: str, *, seed: int = 0, length: int = 2400) -> str:
    """A page of the Python reference with one sentence about a city's access code in its middle."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics.values())[20_000 * seed :][:length]
    cut = text.find("\n", length // 2)
    return f"{text[:cut]}\nThe access code of {city} is {code}.\n{text[cut:]}"
