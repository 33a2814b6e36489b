"""Texts as users give them: what no tokenizer can take, and one kind of line end."""

from __future__ import annotations

from focusdoc.errors import ConfigError, FocusdocError


def check_text(text: str, name: str, error: type[FocusdocError] = ConfigError) -> None:
    """Refuse half of a surrogate pair, which a text cut in the middle of an emoji holds and no tokenizer can encode.

    Args:
        name: what to call the text in the message.

    Raises:
        FocusdocError: of the class `error`.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as found:
        raise error(
            f"{name} holds half of a surrogate pair at character {found.start}, which is no text; decode the bytes it "
            "came from with the right encoding, or drop it with text.encode('utf-8', 'ignore').decode('utf-8')."
        ) from None


def unix_lines(text: str) -> str:
    """`text` with every line end (CRLF, CR or LF) as LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
