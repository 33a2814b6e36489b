"""E-mails: the main headers and the text. Runs in the child process."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import MIMEPart

from focusdoc.documents.markup import to_text
from focusdoc.documents.parsed import Parsed, Request
from focusdoc.documents.web import HTML, parse_html
from focusdoc.texts import unix_lines

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def read(data: bytes, request: Request) -> Parsed:
    """Subject, sender, recipients, date and text of an e-mail; attachments are listed in ``left_out``."""
    message = message_from_bytes(data, policy=policy.default)
    headers = [f"{name}: {message[name]}" for name in _HEADERS if message[name]]
    text = _content(message.get_body(("plain",)))
    if not text.strip() and (page := _content(message.get_body(("html",)))):
        text = to_text(parse_html(page), HTML)[0]
    attached = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    return Parsed(
        format="email",
        unit="section",
        pages=["\n".join([*headers, "", unix_lines(text)])],
        title=message["Subject"],
        author=message["From"],
        left_out=[f"its attachments were not read: {', '.join(attached)}"] if attached else [],
    )


def _content(part: MIMEPart | None) -> str:
    """The text of a part; in an unknown encoding, as UTF-8 or else Windows-1252."""
    if part is None:
        return ""
    try:
        return str(part.get_content())
    except (LookupError, UnicodeError):
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)  # of a part that is no container
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("cp1252", "replace")
