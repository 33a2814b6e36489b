"""E-mails: the main headers and the text. Runs in the child process."""

from __future__ import annotations

from email import message_from_bytes, policy

from focusdoc.documents.markup import to_text
from focusdoc.documents.parsed import Parsed, Request
from focusdoc.documents.web import HTML, parse_html

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def read(data: bytes, request: Request) -> Parsed:
    """Subject, sender, recipients, date and text of an e-mail; attachments are listed in ``left_out``."""
    message = message_from_bytes(data, policy=policy.default)
    headers = [f"{name}: {message[name]}" for name in _HEADERS if message[name]]
    body = message.get_body(("plain", "html"))
    text = str(body.get_content()) if body is not None else ""
    if body is not None and body.get_content_subtype() == "html":
        root = parse_html(text)
        text = to_text(root, HTML)[0] if root is not None else ""
    attached = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    return Parsed(
        format="email",
        unit="section",
        pages=["\n".join([*headers, "", text.replace("\r\n", "\n")])],
        title=message["Subject"],
        author=message["From"],
        left_out=[f"its attachments were not read: {', '.join(attached)}"] if attached else [],
    )
