"""The store's folder: its size limit, who has to go first, and the list, verify and clear of its entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from focusdoc.errors import ConfigError
from focusdoc.memory import entries
from focusdoc.memory.library import maker_key, open_store
from focusdoc.memory.manifest import DocumentKey
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel
from store_samples import (
    IDS,
    SIZE,
    assert_fresh,
    flip,
    only_entry,
    read,
    sign,
)


class TestLimit:
    def versions(self) -> list[list[int]]:
        return [[3 + number, *IDS[1:]] for number in range(4)]

    def test_the_entry_used_longest_ago_goes_first(self, folder: Path, base: BaseModel) -> None:
        first, second, third, fourth = self.versions()
        one = 90 * base.kv_bytes_per_token
        limit = int(3.9 * one)  # three, with their manifests
        for ids in (first, second, third):
            read(folder, base, ids, max_bytes=limit)
        read(folder, base, first, max_bytes=limit)
        read(folder, base, fourth, max_bytes=limit)
        kept = DocumentStore(folder)
        keys = [DocumentKey(ids, SIZE, maker_key(base)) for ids in (first, second, third, fourth)]
        assert [kept.find(key).num_tokens == 90 for key in keys] == [True, False, True, True]
        assert entries.used_bytes(folder) <= limit

    def test_what_is_shared_counts_once_and_goes_with_the_last(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS[:80])
        size = entries.used_bytes(folder)
        entry = only_entry(folder)
        twin = entry.with_name("f" * 32)
        twin.mkdir()
        for path in entry.iterdir():
            os.link(path, twin / path.name)
        assert entries.used_bytes(folder) == size
        assert len(entries.evict(folder, size - 1, keep=twin)) == 1
        assert entries.used_bytes(folder) == size
        assert entries.evict(folder, 0, keep=folder) == [twin]
        assert entries.used_bytes(folder) == 0

    def test_what_alone_is_too_large_is_not_stored(
        self, folder: Path, base: BaseModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        read(folder, base, IDS[:16])
        blocks, _ = read(folder, base, IDS[::-1], max_bytes=5000)
        assert_fresh(blocks, base, IDS[::-1])
        assert "is not stored" in caplog.text
        assert "FOCUSDOC_STORE_BYTES" in caplog.text
        assert read(folder, base, IDS[:16])[1] == 0  # what was there stays

    def test_is_at_most_half_of_the_free_disk(
        self, folder: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read(folder, base, IDS)
        used = entries.used_bytes(folder)

        class Usage:
            free = 1000

        monkeypatch.setattr(entries.shutil, "disk_usage", lambda path: Usage)
        assert entries.allowed_bytes(folder, 10**9) == (1000 + used) // 2
        assert entries.allowed_bytes(folder, 7) == 7

    def test_comes_from_the_environment(self, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FOCUSDOC_STORE", raising=False)
        monkeypatch.setenv("FOCUSDOC_STORE_BYTES", "123")
        opened = open_store()
        assert opened is not None
        assert (opened.folder, opened.max_bytes) == (own_cache / "memories", 123)
        monkeypatch.setenv("FOCUSDOC_STORE_BYTES", "20GB")
        with pytest.raises(ConfigError, match="FOCUSDOC_STORE_BYTES is '20GB'; give a number"):
            open_store()


class TestMaintenance:
    def test_lists_the_last_used_first(self, folder: Path, base: BaseModel) -> None:
        for ids in (IDS, IDS[::-1]):
            read(folder, base, ids)
        read(folder, base, IDS)
        first, second = entries.list_entries(folder)
        assert first.last_used > second.last_used
        assert first.manifest is not None
        assert (first.manifest.document, first.manifest.model) == ("a book", "tiny")
        assert first.num_bytes > 90 * base.kv_bytes_per_token

    def test_verify_removes_what_is_damaged_and_keeps_other_versions(self, folder: Path, base: BaseModel) -> None:
        for ids in (IDS, IDS[::-1], IDS[5:]):
            read(folder, base, ids)
        flipped, foreign, good = entries.entry_folders(folder)
        flip(flipped / "chunks-0.safetensors", 1000)
        sign(foreign, lambda body: body.update(format_version=2))
        problems = {entry.path: entry.problem for entry in entries.verify_entries(folder)}
        assert problems == {
            flipped: "chunks-0.safetensors is damaged (its checksum differs)",
            foreign: "written in format 2, this is 1",
            good: None,
        }
        assert set(entries.entry_folders(folder)) == {foreign, good}

    def test_verify_says_nothing_of_what_is_removed_meanwhile(self, folder: Path, base: BaseModel) -> None:
        for ids in (IDS, IDS[::-1]):
            read(folder, base, ids)
        evicted, kept = entries.entry_folders(folder)

        def evict(name: str) -> None:
            if evicted.exists():
                (evicted / "chunks-0.safetensors").unlink()
                entries.remove_entry(evicted)

        assert [entry.path for entry in entries.verify_entries(folder, evict)] == [kept]

    def test_clear_leaves_nothing(self, folder: Path, base: BaseModel) -> None:
        assert entries.clear_entries(folder) == (0, 0)
        assert not folder.exists()
        for ids in (IDS, IDS[::-1]):
            read(folder, base, ids)
        count, num_bytes = entries.clear_entries(folder)
        assert count == 2
        assert num_bytes > 2 * 90 * base.kv_bytes_per_token
        assert {path.name for path in folder.iterdir()} == {".lock", ".readers"}
