"""Record i of a CSV output is row i; other programs and fanout itself read the values back."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import ConfigError
from fanout.io.readers.opening import open_source
from fanout.io.writers.opening import open_sink
from fanout.types import schema_of
from tests.io.writers.runs import cut, done, failure, publish, result, write_all

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = np.dtypes.StringDType()


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_numbers_texts_and_lists_are_cells_and_a_failed_row_has_its_reason(tmp_path: Path) -> None:
    outputs = {
        "p": np.array([0.1, np.nan, 2], "f4"),
        "text": np.array(['a "b", c\n', "", "null"], TEXTS),
        "vector": np.array([[1, 2], [3, 4], [5, 6]]),
    }
    write_all(tmp_path / "y.csv", [done(0, outputs, ids=["x", "y", "z"])], result(3, [failure(2, 3, "HTTP 422: a, b")]))
    assert records(tmp_path / "y.csv") == [
        {"id": "x", "p": "0.1", "text": 'a "b", c\n', "vector": "[1,2]", "error": ""},
        {"id": "y", "p": "", "text": "", "vector": "[3,4]", "error": ""},
        {"id": "z", "p": "", "text": "", "vector": "", "error": "HTTP 422: a, b"},
    ]


@given(texts=st.lists(st.text(), min_size=1, max_size=5))
def test_any_texts_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode().replace("\0", "") for text in texts]
    path = tmp_path_factory.mktemp("csv") / "y.csv"
    write_all(path, [done(0, np.array(texts, TEXTS))], result(len(texts)))
    assert [record["value"] for record in records(path)] == texts


@pytest.mark.parametrize("safe", [False, True])
@given(texts=st.lists(st.text("'=+-@a1\t\r,", max_size=4), min_size=1, max_size=5))
def test_the_rows_of_a_published_file_can_be_taken_into_a_new_run(
    tmp_path_factory: pytest.TempPathFactory, safe: bool, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "y.csv"
    answers = {"": np.array(texts, TEXTS)}
    sink = open_sink(path, csv_safe=safe)
    sink.open(len(texts))
    sink.write([done(0, answers, ids=list(range(len(texts))))])
    publication = sink.finish(result(len(texts)))
    publication.carry_out()
    sink.close()
    written = path.read_bytes()
    cells = [record["value"] for record in records(path)]
    assert cells == texts if not safe else not [cell for cell in cells if cell[:1] in set("=+-@\t\r") - {""}]

    from fanout.io.writers.base import Checkpoint, Move
    from fanout.rows import RowSet

    ok, schema = RowSet([(0, len(texts))]), schema_of(answers)
    sink = open_sink(path, csv_safe=safe)
    checkpoint = Checkpoint(schema, ok, layout=publication.layout)
    notes, _ = sink.rebuild(checkpoint, [Move(0, len(texts), 0)], published=True)
    sink = open_sink(path, csv_safe=safe)
    sink.open(len(texts), Checkpoint(schema, ok, notes))
    publish(sink, result(len(texts)))
    sink.close()
    assert path.read_bytes() == written


def test_a_header_alone_is_the_file_of_no_rows(tmp_path: Path) -> None:
    write_all(tmp_path / "y.csv", [], result(0))
    assert (tmp_path / "y.csv").read_text() == "value,error\n"


def test_rows_that_were_never_sent_have_an_error_too(tmp_path: Path) -> None:
    from fanout.types import Chunk

    write_all(tmp_path / "y.csv", cut(np.arange(4), [2])[:1], result(4, pending=[Chunk(2, 4)]))
    assert [record["error"] for record in records(tmp_path / "y.csv")] == [
        "", "", *["no answer: the run was stopped"] * 2,
    ]  # fmt: skip


def test_outputs_get_other_names(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "y.csv", rename={"value": "score"})
    sink.open(1)
    sink.write([done(0, np.array([0.5]))])
    publish(sink, result(1))
    sink.close()
    assert records(tmp_path / "y.csv") == [{"score": "0.5", "error": ""}]


def test_kept_columns_of_a_csv_file_are_written_as_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("price,text,code\n1.50,0x,007\n1e3,NA,8\n")
    kept = open_source(tmp_path / "x.csv", "text", keep=["price", "text", "code"]).kept
    assert kept is not None
    sink = open_sink(tmp_path / "y.csv")
    sink.keep(kept)
    sink.open(2)
    sink.write([done(0, np.array([0.5, 1.5]))])
    publish(sink, result(2))
    sink.close()
    assert (tmp_path / "y.csv").read_text() == "price,text,code,value,error\n1.50,0x,007,0.5,\n1e3,NA,8,1.5,\n"


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "y.csv")
    sink.open(1)
    with pytest.raises(ConfigError, match=r"has dtype complex128, which CSV cannot hold; write to a \.npy file"):
        sink.write([done(0, np.array([1j]))])
    sink.close()


@pytest.mark.parametrize(("name", "message"), [("scor", "did you mean .*score"), ("value", 'outputs are "score"')])
def test_an_unknown_output_is_not_renamed(tmp_path: Path, name: str, message: str) -> None:
    sink = open_sink(tmp_path / "y.csv", rename={name: "x"})
    sink.open(1)
    values: Any = {"score": np.array([0.5])}
    with pytest.raises(ConfigError, match=message):
        sink.write([done(0, values)])
    sink.close()


def test_an_array_has_no_columns_to_rename(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no columns to rename"):
        open_sink(tmp_path / "y.npy", rename={"value": "score"})
