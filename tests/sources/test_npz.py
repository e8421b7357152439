"""Rows from ``.npz`` archives."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from fanout.sources import open_source
from tests.sources.test_sources import refusal


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
    )
    return path


def test_a_column_is_the_array_of_that_name(archive):
    np.testing.assert_array_equal(open_source(archive, "images"), np.arange(6.0).reshape(3, 2))


def test_a_list_of_columns_gives_a_mapping(archive):
    rows = open_source(archive, ["images", "labels"])
    assert list(rows) == ["images", "labels"]
    np.testing.assert_array_equal(rows["labels"], np.arange(3))


def test_a_list_of_one_column_gives_a_mapping_too(archive):
    assert list(open_source(archive, ["labels"])) == ["labels"]


def test_the_only_array_needs_no_name(tmp_path):
    np.savez(tmp_path / "x.npz", anything=np.zeros(3))
    assert len(open_source(tmp_path / "x.npz")) == 3


def test_without_a_name_several_arrays_are_listed(archive):
    error = refusal(archive)
    assert '"images", "labels"' in str(error)
    assert error.key == "input.column"


def test_an_archive_of_nothing_says_so(tmp_path):
    np.savez(tmp_path / "x.npz")
    assert "0 arrays" in str(refusal(tmp_path / "x.npz"))


def test_a_misspelt_column_gets_the_nearest_name(archive):
    assert 'did you mean "images"?' in str(refusal(archive, "imagse"))
    assert 'did you mean "labels"?' in str(refusal(archive, ["images", "label"]))


def test_a_column_like_no_other_gets_the_list(archive):
    assert "did you mean" not in str(refusal(archive, "zzz"))
    assert '"scalar"' in str(refusal(archive, "zzz"))


def test_an_empty_list_of_columns_is_refused(archive):
    assert "empty list" in str(refusal(archive, []))


def test_columns_of_different_lengths_are_refused(archive):
    assert '"labels" 3, "more" 4' in str(refusal(archive, ["labels", "more"]))


def test_objects_and_single_values_are_refused(archive):
    assert "array of objects" in str(refusal(archive, "objects"))
    assert "single value" in str(refusal(archive, "scalar"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"text"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    assert "cannot be read as a .npz archive" in str(refusal(tmp_path / "x.npz"))


def test_a_damaged_archive_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.random.default_rng(0).random(1000))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    assert "cannot be read" in str(refusal(tmp_path / "x.npz"))


def test_a_file_in_the_archive_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is no array" in str(refusal(tmp_path / "x.npz"))


def test_an_array_called_npz_is_told_its_right_suffix(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert ".npy" in str(refusal(tmp_path / "x.npz"))
