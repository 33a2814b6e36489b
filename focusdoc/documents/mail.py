"""E-mails: who wrote what to whom, without the transport's headers and encodings. Run in the child process."""

from __future__ import annotations

from email import message_from_bytes, policy

from focusdoc.documents.markup import written
from focusdoc.documents.parsed import Parsed, Request
from focusdoc.documents.web import HTML, parse_html

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def read(data: bytes, request: Request) -> Parsed:
    """Subject, people, date and text of an e-mail; what is attached is named as left out."""
    message = message_from_bytes(data, policy=policy.default)
    heads = [f"{name}: {message[name]}" for name in _HEADERS if message[name]]
    body = message.get_body(("plain", "html"))
    text = str(body.get_content()) if body is not None else ""
    if body is not None and body.get_content_subtype() == "html":
        root = parse_html(text)
        text = written(root, HTML)[0] if root is not None else ""
    attached = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    return Parsed(
        format="email",
        unit="section",
        pages=["\n".join([*heads, "", text.replace("\r\n", "\n")])],
        title=message["Subject"],
        author=message["From"],
        left_out=[f"what is attached to it was not read: {', '.join(attached)}"] if attached else [],
    )
