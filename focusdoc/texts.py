"""Texts from users: a check for lone surrogates, and uniform line ends."""

from __future__ import annotations

from focusdoc.errors import ConfigError, FocusdocError


def check_text(text: str, name: str, error: type[FocusdocError] = ConfigError) -> None:
    """Refuse lone surrogates, as in a text cut in the middle of an emoji: no tokenizer can encode them.

    Args:
        name: the text's name in the message.

    Raises:
        FocusdocError: of the class `error`.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as found:
        raise error(
            f"{name} holds half of a surrogate pair at character {found.start}, which is not text; decode the bytes it "
            "came from with the right encoding, or drop it with text.encode('utf-8', 'ignore').decode('utf-8')."
        ) from None


def unix_lines(text: str) -> str:
    """`text` with every line end (CRLF, CR or LF) as LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
