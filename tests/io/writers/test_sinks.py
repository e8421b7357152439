"""An output that cannot be written is refused before a request is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fanout.errors import ConfigError
from fanout.paths import check_names
from tests.io.writers.runs import opened


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(path, 1)
    assert caught.value.key == "output.path"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_is_made(tmp_path):
    opened(tmp_path / "a" / "b" / "y.npy", 1).close()
    assert (tmp_path / "a" / "b").is_dir()


def test_checking_makes_nothing(tmp_path):
    check_names(tmp_path / "a" / "y.npy")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_lists_the_known(tmp_path):
    message = refusal(tmp_path / "y.xls")
    assert message.startswith("y.xls: an output cannot be a .xls file; ")
    assert ".npy (numbers), .jsonl (numbers and texts), .csv (numbers and texts), .parquet" in message
    assert refusal(tmp_path / "y").startswith("y: its name has no suffix; ")


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "y.npy").mkdir()
    assert "is a folder" in refusal(tmp_path / "y.npy")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").touch()
    assert "is not a folder" in refusal(tmp_path / "a" / "y.npy")


def test_a_name_too_long_is_refused(tmp_path):
    assert "cannot be written" in refusal(tmp_path / ("y" * 300 + ".npy"))
    assert "cannot be written" in refusal(tmp_path / ("y" * 250 + ".npy"))


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission" in refusal(tmp_path / "y.npy")


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "y.npy").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_dir())
    assert "no permission" in refusal(tmp_path / "y.npy")


def test_an_output_that_another_run_is_writing_is_refused(tmp_path):
    sink = opened(tmp_path / "y.npy", 1)
    assert "another run is writing" in refusal(tmp_path / "y.npy")
    sink.close()
