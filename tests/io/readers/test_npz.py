"""Rows from ``.npz`` archives."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fanout.errors import InputError
from fanout.io.readers.opening import open_source
from tests.io.readers.reading import TINY, blocks, holds_in_parts, ids, read, refusal, refused_at_once

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(
        path,
        images=np.arange(6.0).reshape(3, 2),
        labels=np.arange(3),
        more=np.zeros(4),
        scalar=np.array(1),
        objects=np.array([None, 1], object),
        names=np.array(["a", "b", "a"]),
    )
    return path


def test_a_column_is_the_array_of_that_name(archive):
    np.testing.assert_array_equal(read(open_source(archive, "images")), np.arange(6.0).reshape(3, 2))


def test_a_list_of_columns_gives_a_mapping(archive):
    rows = read(open_source(archive, columns=["images", "labels"]), TINY)
    assert list(rows) == ["images", "labels"]
    np.testing.assert_array_equal(rows["labels"], np.arange(3))


def test_a_list_of_one_column_gives_a_mapping_too(archive):
    assert list(read(open_source(archive, columns=["labels"]))) == ["labels"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_part_can_be_read_packed_or_not(tmp_path, save, order):
    array = np.arange(36, dtype=">i4").reshape(6, 2, 3)
    save(tmp_path / "x.npz", a=np.asarray(array, order=order), b=np.arange(6.0))
    holds_in_parts(open_source(tmp_path / "x.npz", "a"), array.tolist())
    both = [{"a": a, "b": b} for a, b in zip(array.tolist(), range(6), strict=True)]
    holds_in_parts(open_source(tmp_path / "x.npz", columns=["a", "b"]), both, size=64)


def test_the_only_array_needs_no_name(tmp_path):
    np.savez(tmp_path / "x.npz", anything=np.zeros(3))
    assert open_source(tmp_path / "x.npz").n_rows == 3


def test_an_array_can_hold_the_ids(archive):
    assert ids(open_source(archive, "images", id="labels")) == [0, 1, 2]
    assert ids(open_source(archive, "images", id="names")) == ["a", "b", "a"]


def test_numbers_with_a_point_are_no_ids(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3), key=np.array([1.0, 2.0, 3.0]))
    error = refusal(tmp_path / "x.npz", "a", id="key")
    assert 'x.npz: the id of row 0 in "key" is of type float: ids are texts or integers' in str(error)
    assert error.key == "input.id"


def test_without_a_name_several_arrays_are_listed(archive):
    error = refused_at_once(archive)
    assert '"images", "labels"' in str(error)
    assert error.key == "input.column"


def test_an_archive_of_nothing_says_so(tmp_path):
    np.savez(tmp_path / "x.npz")
    assert "0 arrays" in str(refused_at_once(tmp_path / "x.npz"))


def test_a_misspelt_column_gets_the_nearest_name(archive):
    assert 'did you mean "images"?' in str(refused_at_once(archive, "imagse"))
    assert 'did you mean "labels"?' in str(refused_at_once(archive, columns=["images", "label"]))
    error = refused_at_once(archive, "images", id="lables")
    assert 'did you mean "labels"?' in str(error)
    assert error.key == "input.id"


def test_a_column_like_no_other_gets_the_list(archive):
    assert "did you mean" not in str(refused_at_once(archive, "zzz"))
    assert '"scalar"' in str(refused_at_once(archive, "zzz"))


def test_an_empty_list_of_columns_is_refused(archive):
    assert "empty list" in str(refused_at_once(archive, columns=[]))


def test_columns_of_different_lengths_are_refused(archive):
    assert '"labels" 3, "more" 4' in str(refused_at_once(archive, columns=["labels", "more"]))
    assert '"labels" 3, "more" 4' in str(refused_at_once(archive, "labels", id="more"))


def test_objects_and_single_values_are_refused(archive):
    assert "array of objects" in str(refused_at_once(archive, "objects"))
    assert "single value" in str(refused_at_once(archive, "scalar"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"text"])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    assert "cannot be read as a .npz archive" in str(refused_at_once(tmp_path / "x.npz"))


def test_a_damaged_archive_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.random.default_rng(0).random(1000))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    assert "cannot be read" in str(refusal(tmp_path / "x.npz"))


def test_a_file_in_the_archive_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is no array" in str(refused_at_once(tmp_path / "x.npz"))


def test_an_array_called_npz_is_refused_with_its_right_suffix(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert ".npy" in str(refused_at_once(tmp_path / "x.npz"))


def test_the_fingerprint_changes_with_the_columns(archive):
    prints = [
        open_source(archive, **options).fingerprint()
        for options in [
            {"column": "images"},
            {"column": "labels"},
            {"columns": ["images"]},
            {"columns": ["images"], "rename": {"images": "labels"}},
            {"columns": ["labels"], "as_vector": True},
            {"columns": ["labels"]},
            {"column": "images", "id": "labels"},
            {"column": "images", "id": ["labels"]},
        ]
    ]
    assert all(prints.count(one) == 1 for one in prints)


def test_blocks_of_several_arrays_count_the_bytes_of_all(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(10), b=np.zeros(10))
    sizes = [len(block.rows["a"]) for block in blocks(open_source(tmp_path / "x.npz", columns=["a", "b"]), 64)]
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize("row", [0, 300])
def test_a_changed_byte_of_a_value_is_never_sent(tmp_path: Path, row: int) -> None:
    x = np.arange(2048.0).reshape(512, 4)
    np.savez(tmp_path / "x.npz", x=x)
    whole = (tmp_path / "x.npz").read_bytes()
    first = whole.index(x.tobytes())
    for at in range(first, first + x.nbytes, 997):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (tmp_path / "x.npz").write_bytes(bytes(damaged))
        with pytest.raises(InputError, match="CRC"):
            list(open_source(tmp_path / "x.npz", "x").blocks_from(row))
