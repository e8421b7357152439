"""Whatever is wrong with an input file is told in one line that says which key to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fanout.errors import InputError
from fanout.sources import open_source


def refusal(path: Path, column: str | list[str] | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        open_source(path, column)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_file_is_named_in_full_with_its_nearest_neighbour(tmp_path, monkeypatch):
    np.save(tmp_path / "digits.npy", np.zeros(3))
    monkeypatch.chdir(tmp_path)
    error = refusal(Path("digit.npy"))
    assert str(tmp_path / "digit.npy") in str(error)
    assert 'did you mean "digits.npy"?' in str(error)
    assert error.key == "input.path"


def test_a_missing_folder_is_said_to_be_missing(tmp_path):
    assert "nor its folder" in str(refusal(tmp_path / "no" / "x.npy"))


def test_a_missing_file_among_others_unlike_it_gets_no_suggestion(tmp_path):
    np.save(tmp_path / "weather.npy", np.zeros(3))
    assert "did you mean" not in str(refusal(tmp_path / "digits.npz"))


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in str(refusal(tmp_path))


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path):
    assert "cannot be read" in str(refusal(tmp_path / ("x" * 300 + ".npy")))


def test_a_file_that_the_disk_does_not_give_is_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros(3))

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", fail)
    assert "cannot be read: Permission denied" in str(refusal(tmp_path / "x.npy"))


def test_an_unknown_suffix_lists_the_known(tmp_path):
    (tmp_path / "x.csv").touch()
    assert ".npy, .npz" in str(refusal(tmp_path / "x.csv"))
