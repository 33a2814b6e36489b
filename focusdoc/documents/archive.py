"""A ZIP archive of the parts of an e-book or an office file, and how far it may be unpacked."""

from __future__ import annotations

import contextlib
import io
import posixpath
from typing import Any
from zipfile import ZipFile

from focusdoc.documents.markup import attribute, parse_xml
from focusdoc.documents.parsed import Parsed, Refused

_LONGEST_FIELD = 1000


class Archive(ZipFile):
    """An archive whose parts, unpacked, are no more than allowed; zipfile reads no more of a part than it declares.

    Raises:
        Refused: they are more, or encrypted.
    """

    def __init__(self, data: bytes, max_unpacked: int) -> None:
        super().__init__(io.BytesIO(data))
        unpacked = sum(part.file_size for part in self.infolist())
        if unpacked > max_unpacked:
            raise Refused("unpacked", f"{unpacked:,}")
        if any(part.flag_bits & 1 for part in self.infolist()):
            raise Refused("protected", "protected by a password")

    def find(self, name: str) -> bytes:
        """The bytes of a part, none where there is no such part."""
        return self.read(name) if name in self.NameToInfo else b""

    def xml(self, name: str) -> Any:
        """The tree of a part; KeyError where there is no such part."""
        return parse_xml(self.read(name))

    def related(self, name: str) -> dict[str, tuple[str, str]]:
        """What an Office file's part refers to, by the id of the reference: its kind and the part's name."""
        folder, base = posixpath.split(name)
        data = self.find(f"{folder}/_rels/{base}.rels".lstrip("/"))
        found = {}
        for reference in parse_xml(data) if data else ():
            if attribute(reference, "TargetMode") != "External":
                target = posixpath.normpath(posixpath.join("/", folder, attribute(reference, "Target"))).lstrip("/")
                found[attribute(reference, "Id")] = posixpath.basename(attribute(reference, "Type")), target
        return found

    def named(self, parsed: Parsed, part: str) -> Parsed:
        """`parsed` with title and author from the part that holds them; damage there is no reason to refuse a text."""
        with contextlib.suppress(Exception):
            tree = self.xml(part)
            parsed.title, parsed.author = (
                (tree.findtext(f".//{{http://purl.org/dc/elements/1.1/}}{field}") or "").strip()[:_LONGEST_FIELD]
                or None
                for field in ("title", "creator")
            )
        return parsed
