"""ZIP archives of e-books and office files, with a limit on their unpacked size."""

from __future__ import annotations

import contextlib
import io
import posixpath
from typing import Any
from zipfile import ZipFile

from focusdoc.documents.markup import attribute, parse_xml
from focusdoc.documents.parsed import Parsed, Refused


class Archive(ZipFile):
    """An archive with a limit on its unpacked size; zipfile never reads more of a part than its declared size.

    Refused: it is larger, or encrypted.
    """

    def __init__(self, data: bytes, max_unpacked: int) -> None:
        super().__init__(io.BytesIO(data))
        unpacked = sum(part.file_size for part in self.infolist())
        if unpacked > max_unpacked:
            raise Refused("unpacked", f"{unpacked:,}")
        if any(part.flag_bits & 1 for part in self.infolist()):
            raise Refused("protected", "protected by a password")

    def find(self, name: str) -> bytes:
        """The bytes of a part; empty if there is no such part."""
        return self.read(name) if name in self.NameToInfo else b""

    def xml(self, name: str) -> Any:
        """The XML tree of a part. KeyError: there is no such part."""
        return parse_xml(self.read(name))

    def related(self, name: str) -> dict[str, tuple[str, str]]:
        """The relationships of an Office file's part by id: the type and the name of the target part."""
        folder, base = posixpath.split(name)
        data = self.find(f"{folder}/_rels/{base}.rels".lstrip("/"))
        found = {}
        for reference in parse_xml(data) if data else ():
            if attribute(reference, "TargetMode") != "External":
                target = posixpath.normpath(posixpath.join("/", folder, attribute(reference, "Target"))).lstrip("/")
                found[attribute(reference, "Id")] = posixpath.basename(attribute(reference, "Type")), target
        return found

    def named(self, parsed: Parsed, part: str) -> Parsed:
        """`parsed` with title and author from the metadata part; errors in there are ignored."""
        with contextlib.suppress(Exception):
            tree = self.xml(part)
            parsed.title, parsed.author = (
                (tree.findtext(f".//{{http://purl.org/dc/elements/1.1/}}{field}") or "").strip() or None
                for field in ("title", "creator")
            )
        return parsed
