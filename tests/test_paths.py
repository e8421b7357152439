"""Rows 62 and 64 of the fault matrix: a run writes no file of another, and none of its own two under one name."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import Journal, open_sink
from fanout.errors import ConfigError
from fanout.paths import PARTIAL, check_names, column_paths, journal_path, report_paths, require_apart
from tests.devices import like_null
from tests.io.writers.runs import done, failure, result, write_all

NAMES = st.text(max_size=12) | st.sampled_from(
    ["ok", "OK", "oK", "npy.ok", "npy", "", ".", "..", "a/b", "\0", "\ud800"]
)
OUTPUTS = st.sampled_from(["y.npy", "y.jsonl", "y.parquet", "y.npy.ok.npy", "y.npy.a.npy", "y.a.npy", "y.mock.npy"])


def written(output: Path, names: list[str]) -> list[Path]:
    """The files that a run writes, each once."""
    outputs = list(column_paths(output, names).values()) if len(names) > 1 else [output]
    finals = [*outputs, *report_paths(output)]
    return [*finals, *(path.with_name(path.name + PARTIAL) for path in finals), journal_path(output)]


@given(names=st.sets(NAMES | st.text(min_size=250, max_size=400), min_size=2, max_size=6))
def test_row_62_every_output_has_a_file_of_its_own_in_the_folder(names: set[str]) -> None:
    output = Path("/tmp/folder/y.npy")
    paths = column_paths(output, list(names))
    every = written(output, list(names))
    assert len({path.name.lower() for path in every}) == len(every), "nor do they differ in capitals alone"
    for name, path in paths.items():
        assert path.parent == output.parent
        assert not set(path.name) & set("/\0\n\x1b")
        assert len(os.fsencode(path.name + PARTIAL)) <= 255
        if "%~" not in path.name:
            quoted = path.name.removeprefix("y.npy.").removesuffix(".npy")
            assert unquote(quoted, errors="surrogatepass") == name


@given(one=OUTPUTS, other=OUTPUTS, names=st.sets(st.sampled_from(["a", "ok", "b.npy"]), min_size=1, max_size=3))
def test_row_62_two_jobs_that_would_share_a_file_are_refused(
    tmp_path_factory: pytest.TempPathFactory, one: str, other: str, names: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("jobs")
    journal_path(folder / one).touch()
    shared = set(written(folder / one, sorted(names))) & set(written(folder / other, sorted(names)))
    if one != other and shared:
        with pytest.raises(ConfigError, match="would share files with the job that writes"):
            check_names(folder / other)
    elif not other.startswith(f"{one}.") and not one.startswith(f"{other}."):
        check_names(folder / other)


def test_row_62_64_jobs_with_one_stem_keep_their_masks_and_failures(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    lost, whole = result(3, [failure(1, 2)]), result(3)
    write_all(tmp_path / "y.npy", [done(0, np.arange(3.0))], lost)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_all(tmp_path / "y.jsonl", [done(0, np.arange(3.0))], whole)
    write_all(tmp_path / "y.parquet", [done(0, np.arange(3.0))], whole)
    assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()
    assert len(list(tmp_path.iterdir())) == len(before) + 2


@pytest.mark.parametrize(
    "name",
    [
        "y.npy", "y.npy.partial", "y.npy.ordered", "y.npy.journal", "y.npy.journal.new", "y.npy.ok.npy",
        "y.npy.ok.npy.partial", "y.npy.failures.jsonl", "y.npy.scores.npy", "y.npy.scores.npy.partial",
    ],
)  # fmt: skip
@pytest.mark.parametrize("link", ["none", "of the input", "of the output", "hard"])
def test_row_62_an_input_that_the_run_would_write_is_refused(tmp_path: Path, name: str, link: str) -> None:
    source, output = tmp_path / name, tmp_path / "y.npy"
    source.write_bytes(b"rows")
    if link == "of the input":
        (tmp_path / "other").symlink_to(source)
        source = tmp_path / "other"
    elif link == "of the output":
        (tmp_path / "sub").symlink_to(tmp_path)
        output = tmp_path / "sub" / "y.npy"
    elif link == "hard":
        os.link(source, tmp_path / "other")
        source = tmp_path / "other"
    with pytest.raises(ConfigError, match="would overwrite the input") as caught:
        require_apart(output, [source])
    assert caught.value.key == "output.path"


@pytest.mark.parametrize("name", ["y.npy.ok.npy", "y.npy.failures.jsonl", "y.npy", "y.npy.scores.npy"])
def test_a_link_to_the_input_under_a_name_of_the_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.npy").write_bytes(b"rows")
    (tmp_path / name).symlink_to("x.npy")
    with pytest.raises(ConfigError, match=r"overwrite the input .*x\.npy"):
        require_apart(tmp_path / "y.npy", [tmp_path / "x.npy"])


@pytest.mark.parametrize(
    ("output", "source"),
    [
        ("y.jsonl", "y.jsonl.gz"),
        ("y.npy", "y.train.npy"),
        ("y.npy", "y.jsonl"),
        ("y.npy", "y.npy2"),
        ("y.npy", "y.npz"),
    ],
)
def test_an_input_with_a_like_name_is_not(tmp_path: Path, output: str, source: str) -> None:
    (tmp_path / source).touch()
    require_apart(tmp_path / output, [tmp_path / source])


@pytest.mark.parametrize("beside", ["", ".partial", ".ok.npy", ".failures.jsonl", ".journal", ".ordered"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link to a device", "link to a folder", "loop"])
def test_only_regular_files_are_replaced(
    tmp_path: Path, beside: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path(f"y.npy{beside}")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        # Not the system's own: a fault in the code would replace them, where the tests run as root.
        like_null(tmp_path / "null")
        (tmp_path / "folder").mkdir()
        path.symlink_to({"link to a device": "null", "link to a folder": "folder", "loop": path.name}[kind])
    with pytest.raises(ConfigError, match=r"y\.npy") as caught:
        open_sink("y.npy")
    assert caught.value.key == "output.path"
    assert os.path.lexists(path)


def test_a_temporary_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"rows")
    (tmp_path / "y.npy.partial").symlink_to("precious")
    with pytest.raises(ConfigError, match="is a symbolic link"):
        open_sink(tmp_path / "y.npy")
    assert (tmp_path / "precious").read_bytes() == b"rows"


def test_two_names_of_one_output_are_two_jobs_that_share_it(tmp_path: Path) -> None:
    (tmp_path / "a.npy").symlink_to("b.npy")
    Journal(tmp_path / "a.npy.journal", {"rows": 1}).close()
    (tmp_path / "a.npy.journal").touch()
    open_sink(tmp_path / "a.npy")
    with pytest.raises(ConfigError, match=r"the job that writes a\.npy"):
        open_sink(tmp_path / "b.npy")


@pytest.mark.parametrize("path", ["y\0.npy", ""])
def test_an_impossible_name_is_a_clear_error(tmp_path: Path, path: str) -> None:
    for check in (open_sink, lambda output: require_apart(Path(output), [tmp_path])):
        with pytest.raises(ConfigError) as caught:
            check(path)
        assert caught.value.key == "output.path"


def test_a_folder_that_cannot_be_looked_at_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    for check in (check_names, lambda output: require_apart(output, [tmp_path / "x.npy"])):
        with pytest.raises(ConfigError, match=r"y\.npy cannot be written: Permission denied"):
            check(tmp_path / "y.npy")
