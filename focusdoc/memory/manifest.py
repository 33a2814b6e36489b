"""The manifest of a stored memory, with the hashes to find it and to detect damage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

from focusdoc.container import num_cpus

#: Increased when the files or the meaning of a manifest change; entries of other versions are not read. A new kind of
#: block needs no new version: its makers have other names, so an older version never looks for it.
FORMAT_VERSION = 1
#: Name of the manifest in an entry's folder.
MANIFEST = "manifest.json"

#: Bytes per checksum, so that several threads can check one file.
_SLICE = 64 << 20
_READ = 1 << 20
_Count = Annotated[int, Field(ge=0)]
_Shape = tuple[_Count, _Count, _Count, _Count, _Count]
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class DamagedEntryError(ValueError):
    """A stored entry that must not be used: unreadable, incomplete or altered."""


class OtherVersionError(DamagedEntryError):
    """An entry in the format of another version of focusdoc."""


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Segment(_Record):
    """A file of consecutive chunks of one length.

    Attributes:
        file: its name in the entry's folder.
        num_bytes: its size.
        dtype: of keys and values, by its torch name, such as "bfloat16"; with "int8" the file has scales too.
        shape: of keys and of values, [num_layers, num_chunks, num_kv_heads, chunk_len, head_dim].
        checksums: SHA-256 of each 64 MiB of the file.
    """

    file: Annotated[str, Field(pattern=r"^[0-9a-z-]+\.safetensors$")]  # no path that leads elsewhere
    num_bytes: _Count
    dtype: str
    shape: _Shape
    checksums: tuple[_Hash, ...]

    @property
    def num_chunks(self) -> int:
        """Chunks in the file."""
        return self.shape[1]

    @property
    def chunk_len(self) -> int:
        """Tokens of each chunk."""
        return self.shape[3]


class Manifest(_Record):
    """One stored memory.

    Attributes:
        maker: identifies everything but the chunk size that determines the KV.
        document, model: display names.
        num_tokens: of the document.
        prefix_hashes: for every full chunk, the SHA-256 of all tokens up to its end.
        token_hash: the SHA-256 of all tokens.
        segments: the full chunks in order, then the ragged last chunk, as far as they exist.
    """

    format_version: int
    maker: str
    document: str
    model: str
    chunk_size: Annotated[int, Field(ge=1)]
    num_tokens: Annotated[int, Field(ge=1)]
    prefix_hashes: tuple[_Hash, ...]
    token_hash: _Hash
    segments: tuple[Segment, ...]

    def to_json(self) -> bytes:
        """The manifest with its own checksum."""
        body = self.model_dump_json()
        return f'{{"checksum":"{_sha256(body)}","manifest":{body}}}\n'.encode()


class _Signed(_Record):
    checksum: _Hash
    manifest: Manifest


class _Versioned(BaseModel):
    """The part of a manifest that all versions share."""

    format_version: Annotated[int, Field(validation_alias=AliasPath("manifest", "format_version"))]


def read_manifest(entry: Path) -> Manifest:
    """The manifest of an entry.

    Raises:
        OSError: it cannot be read. OtherVersionError: it is in another format. DamagedEntryError: it is damaged, or its
            segments do not match its tokens.
    """
    data = (entry / MANIFEST).read_bytes()
    try:
        version = _Versioned.model_validate_json(data).format_version
        if version != FORMAT_VERSION:
            raise OtherVersionError(f"written in format {version}, this is {FORMAT_VERSION}")
        signed = _Signed.model_validate_json(data)
    except ValidationError as error:
        raise DamagedEntryError(f"the manifest is damaged ({error.error_count()} errors)") from error
    manifest = signed.manifest
    if signed.checksum != _sha256(manifest.model_dump_json()):
        raise DamagedEntryError("the manifest is damaged (its checksum differs)")
    stored = [segment.chunk_len for segment in manifest.segments for _ in range(segment.num_chunks)]
    starts = range(0, manifest.num_tokens, manifest.chunk_size)
    if stored != [min(manifest.chunk_size, manifest.num_tokens - start) for start in starts]:
        raise DamagedEntryError("the files do not hold the document's chunks")
    return manifest


class DocumentKey:
    """What a stored memory is found by: its maker, the chunk size, and hashes of the document's tokens.

    Attributes:
        maker: identifies everything but the chunk size that determines the KV.
        prefixes: for every full chunk, the SHA-256 of all tokens up to its end.
        whole: the SHA-256 of all tokens.
        group: the folder of the entries that can share chunks: same maker, chunk size and first chunk, ragged or not.
        entry: the folder of exactly this document, in that of its group.
        lock: the name of the lock to hold while the document is read. There are at most 4,096 such names; two documents
            seldom have the same.
    """

    def __init__(self, token_ids: Sequence[int], chunk_size: int, maker: str) -> None:
        import numpy

        self.maker, self.chunk_size, self.num_tokens = maker, chunk_size, len(token_ids)
        self._data = numpy.asarray(token_ids, dtype="<i8").tobytes()  # the same on every machine
        width = 8 * chunk_size
        running = hashlib.sha256()
        prefixes = []
        for end in range(width, len(self._data) + 1, width):
            running.update(self._data[end - width : end])
            prefixes.append(running.hexdigest())
        running.update(self._data[len(self._data) // width * width :])
        self.prefixes, self.whole = tuple(prefixes), running.hexdigest()
        self.group = self._name(prefixes[0] if prefixes else self.whole)
        self.entry = f"{self.group}/{self.whole[:32]}"
        self.lock = self._name(self.whole)[:3]

    def _name(self, token_hash: str) -> str:
        return _sha256(f"{FORMAT_VERSION}\n{self.maker}\n{self.chunk_size}\n{token_hash}")[:32]

    def num_known(self, manifest: Manifest) -> int:
        """How many of the leading tokens an entry has: all of them, or those of the common full chunks."""
        if (manifest.token_hash, manifest.num_tokens) == (self.whole, self.num_tokens):
            return self.num_tokens
        pairs = zip(manifest.prefix_hashes, self.prefixes, strict=False)
        return self.chunk_size * sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def continues(self, manifest: Manifest) -> bool:
        """Whether the document begins with all tokens of an entry."""
        return hashlib.sha256(self._data[: 8 * manifest.num_tokens]).hexdigest() == manifest.token_hash


def checksums(path: Path) -> tuple[str, ...]:
    """SHA-256 of each 64 MiB of a file, on several threads (1.4 GB/s per core with SHA instructions)."""
    with ThreadPoolExecutor(min(num_cpus(), 8)) as pool:
        return tuple(pool.map(partial(_checksum, path), range(0, path.stat().st_size, _SLICE)))


def check_segment(entry: Path, segment: Segment) -> None:
    """Raise DamagedEntryError unless the file is exactly as written; OSError if it is missing."""
    path = entry / segment.file
    size = path.stat().st_size
    if size != segment.num_bytes:
        raise DamagedEntryError(f"{segment.file} has {size:,} bytes, not {segment.num_bytes:,}")
    if checksums(path) != segment.checksums:
        raise DamagedEntryError(f"{segment.file} is damaged (its checksum differs)")


def _checksum(path: Path, start: int) -> str:
    """Reads instead of mapping: if the file is truncated meanwhile, the checksum differs, and no SIGBUS is raised."""
    digest, buffer, left = hashlib.sha256(), bytearray(_READ), _SLICE
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(memoryview(buffer)[: min(left, _READ)])):
            digest.update(memoryview(buffer)[:count])
            left -= count
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
