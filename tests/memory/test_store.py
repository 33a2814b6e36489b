"""The document store: what it knows is exact, and what it does not know is told apart."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from focusdoc.errors import ConfigError
from focusdoc.memory import entries, library
from focusdoc.memory.chunk_memory import MemoryBlock
from focusdoc.memory.library import open_store
from focusdoc.memory.store import DocumentStore
from focusdoc.modeling.base import BaseModel
from store_samples import (
    IDS,
    NEW,
    SIZE,
    assert_exact,
    assert_fresh,
    only_entry,
    read,
    read_through,
)
from tiny_models import tiny_model


class TestKnownDocuments:
    @pytest.mark.parametrize("count", [90, 80, 16, 5, 1], ids=lambda count: f"{count} tokens")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_come_back_bit_for_bit_without_encoding(self, folder: Path, count: int, dtype: torch.dtype) -> None:
        base = BaseModel(tiny_model().to(dtype))
        first, encoded = read(folder, base, IDS[:count])
        assert encoded == count
        again, encoded = read(folder, base, IDS[:count])
        assert encoded == 0
        assert {block.keys.dtype for block in again} == {dtype}
        assert_exact(again, first)

    def test_are_mapped_and_a_write_does_not_reach_the_file(self, folder: Path, base: BaseModel) -> None:
        first, _ = read(folder, base, IDS)
        first = tuple(MemoryBlock(block.keys.clone(), block.values.clone()) for block in first)
        mapped, _ = read(folder, base, IDS)
        if sys.platform == "linux":
            assert ".safetensors" in Path("/proc/self/maps").read_text()
        assert mapped[0].keys.data_ptr() % 64 == 0
        mapped[0].keys.zero_()
        again, encoded = read(folder, base, IDS)
        assert encoded == 0
        assert_exact(again, first)

    def test_stay_usable_after_their_entry_was_removed(self, folder: Path, base: BaseModel) -> None:
        first, _ = read(folder, base, IDS)
        mapped, _ = read(folder, base, IDS)
        entries.clear_entries(folder)
        assert_exact(mapped, first)

    def test_are_private(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS)
        for path in (folder.parent, folder, only_entry(folder).parent):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700

    def test_count_as_read_at_once_in_the_progress(self, folder: Path, base: BaseModel) -> None:
        told: list[tuple[int, int]] = []
        for ids in (IDS, IDS, IDS + NEW * 10):
            told.clear()
            read_through(DocumentStore(folder), base, ids, progress=lambda *call: told.append(call))
            assert told[-1] == (len(ids), len(ids))
            assert [done for done, _ in told] == sorted({done for done, _ in told})
            assert {total for _, total in told} == {len(ids)}
        assert told[0] == (80, 120)


class TestChangedDocuments:
    def test_that_grew_are_read_from_their_first_changed_chunk(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS)
        grown = IDS + NEW * 20
        blocks, encoded = read(folder, base, grown)
        assert encoded == len(grown) - 80  # the ragged chunk was not full
        assert_fresh(blocks, base, grown)
        assert read(folder, base, grown)[1] == 0
        assert_exact(read(folder, base, grown)[0], blocks)

    def test_an_older_version_is_replaced_and_its_files_are_kept(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS)
        file = only_entry(folder) / "chunks-0.safetensors"
        inode = file.stat().st_ino
        read(folder, base, IDS + NEW * 20)
        assert not file.exists()
        assert (only_entry(folder) / "chunks-0.safetensors").stat().st_ino == inode

    def test_that_grow_again_and_again_stay_in_few_files(self, folder: Path, base: BaseModel) -> None:
        ids = list(IDS)
        read(folder, base, ids)
        for step in range(40):
            ids += [3 + (step * 11 + index) % 90 for index in range(20)]
            blocks, encoded = read(folder, base, ids)
            assert encoded < 2 * SIZE + 20
        assert_fresh(blocks, base, ids)
        assert len(list(only_entry(folder).glob("chunks-*"))) <= 7
        assert_exact(read(folder, base, ids)[0], blocks)

    def test_without_hard_links_are_copied(
        self, folder: Path, base: BaseModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(source: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
        read(folder, base, IDS)
        blocks, encoded = read(folder, base, IDS + NEW * 20)
        assert encoded == 70
        assert_exact(read(folder, base, IDS + NEW * 20)[0], blocks)

    @pytest.mark.parametrize(("cut", "encoded"), [(85, 5), (80, 0), (70, 6), (64, 0), (17, 1)])
    def test_that_shrank_are_read_from_their_first_changed_chunk(
        self, folder: Path, base: BaseModel, cut: int, encoded: int
    ) -> None:
        read(folder, base, IDS)
        blocks, found = read(folder, base, IDS[:cut])
        assert found == encoded
        assert_fresh(blocks, base, IDS[:cut])

    def test_that_differ_in_the_middle_share_what_comes_before(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS)
        edited = IDS[:40] + [4] + IDS[41:]
        assert edited != IDS
        blocks, encoded = read(folder, base, edited)
        assert encoded == 90 - 32
        assert_fresh(blocks, base, edited)
        assert [read(folder, base, ids)[1] for ids in (IDS, edited)] == [0, 0]

    def test_the_longest_common_beginning_is_taken(self, folder: Path, base: BaseModel) -> None:
        for ids in (IDS[:40], IDS[:32] + NEW * 20, IDS):
            read(folder, base, ids)
        blocks, encoded = read(folder, base, IDS[:70] + NEW)
        assert encoded == 73 - 64
        assert_fresh(blocks, base, IDS[:70] + NEW)

    def test_a_first_chunk_that_was_not_full_is_found_only_as_it_is(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS[:10])
        assert read(folder, base, IDS[:10])[1] == 0
        assert read(folder, base, IDS[:12])[1] == 12

    @settings(max_examples=60)
    @given(data=st.data())
    def test_read_with_the_store_equal_those_read_without(
        self, tmp_path_factory: pytest.TempPathFactory, base: BaseModel, data: st.DataObject
    ) -> None:
        folder = tmp_path_factory.mktemp("store") / "memories"
        tokens = st.integers(3, 6)  # few, so that beginnings meet
        ids = data.draw(st.lists(tokens, min_size=1, max_size=40), label="first version")
        for _ in range(data.draw(st.integers(1, 5), label="versions")):
            at = data.draw(st.integers(0, len(ids)))
            behind = ids[at:] if data.draw(st.booleans()) else []
            if changed := [*ids[:at], *data.draw(st.lists(tokens, max_size=30)), *behind]:
                ids = changed
            blocks, encoded = read(folder, base, ids, 4)
            assert 0 <= encoded <= len(ids)
            assert_fresh(blocks, base, ids, 4)
            assert read(folder, base, ids, 4)[1] == 0


class TestMisses:
    def test_another_chunk_size(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS)
        assert read(folder, base, IDS, 8)[1] == 90

    def test_another_model_dtype_or_context(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS)
        other = tiny_model()
        with torch.no_grad():
            other.get_decoder().layers[1].self_attn.k_proj.weight.mul_(1.01)
        rotated = tiny_model(rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
        for model in (other, rotated, tiny_model().to(torch.bfloat16), tiny_model(max_position_embeddings=256)):
            blocks, encoded = read(folder, BaseModel(model), IDS)
            assert encoded == 90
            assert_fresh(blocks, BaseModel(model), IDS)

    def test_another_name_of_the_same_model_is_none(self, folder: Path, base: BaseModel) -> None:
        read(folder, base, IDS)
        assert read(folder, BaseModel(tiny_model(), name="renamed"), IDS)[1] == 0


class TestSettings:
    def test_off_turns_every_store_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FOCUSDOC_STORE", "OFF")
        assert open_store("auto") is open_store(tmp_path) is open_store(None) is None
        monkeypatch.setenv("FOCUSDOC_STORE", "maybe")
        with pytest.raises(ConfigError, match="FOCUSDOC_STORE is 'maybe'"):
            open_store()

    def test_a_folder_a_store_or_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FOCUSDOC_STORE", raising=False)
        opened = open_store(tmp_path / "mine")
        assert opened is not None
        assert opened.folder == tmp_path / "mine"
        assert open_store(opened) is opened
        assert open_store(None) is None

    def test_a_cache_that_cannot_be_written_is_a_warning(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def cannot() -> Path:
            raise ConfigError("The cache folder /x cannot be made")

        monkeypatch.delenv("FOCUSDOC_STORE", raising=False)
        monkeypatch.setattr(library, "store_folder", cannot)
        assert open_store() is None
        assert "The document store is off: The cache folder /x" in caplog.text
