"""The store of answers: an answer is found by its own key alone, and damage is never an answer."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from hashlib import blake2b
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fanout import ConfigError
from fanout.io.block_format import BlockFormat
from fanout.io.cache import AnswerCache, Origin

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = Origin("", "https://x.test/v1", "v1")
STRING = np.dtypes.StringDType()


def key(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=16).digest()


def put(cache: AnswerCache, numbers: list[int], origin: Origin = ORIGIN) -> None:
    cache.put(origin, [([key(n) for n in numbers], {"": np.array([[n, -n] for n in numbers], "f4")})])


def found(cache: AnswerCache, numbers: list[int]) -> dict[int, list[float]]:
    answers = cache.get([key(n) for n in numbers])
    return {
        numbers[place]: row for one in answers for place, row in zip(one.places, one.outputs[""].tolist(), strict=True)
    }


def test_answers_are_found_by_their_keys_alone_and_by_other_processes(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path)
    put(cache, [1, 2, 3])
    other = AnswerCache(path)
    assert found(other, [3, 9, 1]) == {3: [3, -3], 1: [1, -1]}
    put(other, [9])
    assert found(cache, [9, 9]) == {9: [9, -9]}
    assert cache.get([None, None]) == []
    cache.close()
    other.close()


def test_the_file_is_for_its_owner_alone(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path)
    put(cache, [1])
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    cache.close()


@given(
    st.lists(
        st.one_of(
            npst.arrays(
                st.sampled_from(["f4", "f8", "i8", "u1", "?", "c16", "f2"]), npst.array_shapes(max_dims=3, min_side=0)
            ),
            st.lists(st.text(), min_size=1, max_size=4).map(lambda texts: np.array(texts, STRING)),
            st.lists(st.text(), min_size=2, max_size=4).map(lambda texts: np.array([texts, texts], STRING)),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_rows_of_any_schema_survive_packing(arrays: list[np.ndarray]):
    n_rows = min(map(len, arrays))
    outputs = {f"output {i}": array[:n_rows] for i, array in enumerate(arrays)}
    layout = BlockFormat({name: (array.dtype, array.shape[1:]) for name, array in outputs.items()})
    again = BlockFormat.parse(layout.text)
    assert dict(again.schema) == dict(layout.schema)
    blocks = list(layout.pack(outputs, most_bytes=32, most_rows=3))
    rows = [(block, row) for block, (n, _) in enumerate(blocks) for row in range(n)]
    unpacked = again.unpack(blocks)
    for name, array in again.unpack(blocks, rows[::-2]).items():
        np.testing.assert_array_equal(array, unpacked[name][::-2])
    assert list(unpacked) == list(outputs)
    for name, array in outputs.items():
        assert unpacked[name].dtype == array.dtype
        assert unpacked[name].shape == array.shape
        np.testing.assert_array_equal(unpacked[name], array)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"": 1}', '{"": ["O", []]}', '{"": ["f4", "x"]}', '{"": ["V8", []]}']
)
def test_a_schema_of_objects_or_of_nothing_is_refused(text: str):
    with pytest.raises((ValueError, TypeError)):
        BlockFormat.parse(text)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE blocks SET answers = zeroblob(8)",
        "UPDATE blocks SET answers = substr(answers, 1, 4)",
        "UPDATE blocks SET answers = 5",
        "UPDATE blocks SET keys = zeroblob(16)",
        "UPDATE blocks SET keys = 'x'",
        "UPDATE blocks SET source = 7",
        "UPDATE blocks SET at = at + 1",
        "UPDATE blocks SET at = 'x'",
        'UPDATE sources SET schema = \'{"": ["O", [2]]}\'',
        "UPDATE sources SET schema = 'nonsense'",
        "UPDATE requests SET block = block + 1",
        "UPDATE requests SET row = row + 1",
        "UPDATE requests SET row = -1",
        "UPDATE requests SET block = 9223372036854775807",
        "DELETE FROM blocks",
        "DELETE FROM sources",
    ],
)
def test_a_damaged_answer_is_none(tmp_path: Path, damage: str):
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path)
    put(cache, [1])
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(damage)
    assert cache.get([key(1)]) == []
    cache.close()


def test_an_answer_in_the_place_of_another_is_none(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path)
    put(cache, [1, 2, 3])
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE requests SET row = 1 - row WHERE row < 2")
    assert found(cache, [1, 2, 3]) == {3: [3, -3]}
    cache.close()


def test_a_newer_answer_takes_the_place_of_an_older_one(tmp_path: Path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    put(cache, [1, 2])
    for value in (5, 6):
        cache.put(ORIGIN, [([key(2), key(3)], {"": np.array([[value, 0], [value, 1]], "f4")})])
        assert found(cache, [1, 2, 3]) == {1: [1, -1], 2: [value, 0], 3: [value, 1]}
        assert [(entry.answers, entry.bytes) for entry in cache.entries()] == [(3, 24)]
    cache.close()
    with closing(sqlite3.connect(tmp_path / "answers.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM blocks").fetchone() == (2,)


NUMBERS = st.lists(st.integers(0, 12), max_size=12)


@given(st.lists(st.tuples(st.lists(NUMBERS, max_size=3), st.integers(1, 9)), max_size=4), NUMBERS)
def test_every_answer_is_the_last_that_was_put_in_any_order_and_block(puts, wanted):
    with patch("fanout.io.cache._BLOCK_BYTES", 24), closing(AnswerCache()) as cache:
        expected: dict[int, list[float]] = {}
        for groups, value in puts:
            # Two schemas, so that a look-up has several sources.
            entries = [
                ([key(n) for n in part], {"": np.array([[n, value + i] for n in part], dtype)})
                for i, group in enumerate(groups)
                for dtype, part in (("f4", [n for n in group if n % 3]), ("f8", [n for n in group if not n % 3]))
                if part
            ]
            cache.put(ORIGIN, entries)
            expected |= {n: [n, value + i] for i, group in enumerate(groups) for n in group}
        answers = cache.get([None, *map(key, wanted)])
        for answer in answers:
            assert answer.places == sorted(answer.places)
            assert answer.outputs[""].flags.writeable
        rows = {place: row for one in answers for place, row in zip(one.places, one.outputs[""].tolist(), strict=True)}
        assert rows == {i: expected[n] for i, n in enumerate(wanted, 1) if n in expected}
        assert sum(entry.answers for entry in cache.entries()) == len(expected)


def test_answers_that_come_together_are_read_together_and_those_far_apart_as_well(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("fanout.io.cache._BLOCKS_READ", 3)
    cache = AnswerCache(tmp_path / "answers.sqlite")
    wide = np.repeat(np.arange(64.0), 1024).reshape(64, 1024)  # four answers a block
    cache.put(ORIGIN, [([key(n) for n in range(64)], {"": wide})])
    (first,) = cache.get([key(n) for n in range(12)])
    np.testing.assert_array_equal(first.outputs[""], wide[:12])
    some = [63, 1, 17, 40, 16, 0, 99, 41]
    assert found(cache, some) == {n: wide[n].tolist() for n in some if n != 99}
    cache.close()


def test_a_block_is_deleted_with_its_last_answer(tmp_path: Path):
    cache = AnswerCache(tmp_path / "answers.sqlite")

    def blocks() -> int:
        with closing(sqlite3.connect(tmp_path / "answers.sqlite")) as database:
            return database.execute("SELECT count(*) FROM blocks").fetchone()[0]

    put(cache, [1, 2])
    put(cache, [2])
    assert blocks() == 2
    put(cache, [1, 3])
    assert blocks() == 2
    put(cache, [5, 5])
    assert found(cache, [1, 2, 3, 5]) == {n: [n, -n] for n in (1, 2, 3, 5)}
    cache.close()


def test_an_answer_counts_for_its_time_to_live(tmp_path: Path):
    time = [1000.0]
    cache = AnswerCache(tmp_path / "answers.sqlite", ttl=60.0, now=lambda: time[0])
    put(cache, [1])
    time[0] += 59
    assert found(cache, [1]) == {1: [1, -1]}
    time[0] += 2
    assert found(cache, [1]) == {}
    put(cache, [1])
    assert found(cache, [1]) == {1: [1, -1]}
    cache.close()


def test_entries_and_prune_by_age_and_namespace(tmp_path: Path):
    time = [1000.0]
    cache = AnswerCache(tmp_path / "answers.sqlite", now=lambda: time[0])
    put(cache, [1, 2])
    time[0] += 100
    put(cache, [3], ORIGIN._replace(namespace="b"))
    assert [(entry.namespace, entry.answers, entry.bytes) for entry in cache.entries()] == [("", 2, 16), ("b", 1, 8)]
    assert cache.prune(older_than=50, namespace="b") == 0
    assert cache.prune(older_than=50) == 2
    put(cache, [4])
    assert cache.prune(namespace="b") == 1
    assert found(cache, [1, 2, 3, 4]) == {4: [4, -4]}
    assert cache.prune() == 1
    assert cache.entries() == []
    cache.close()


def test_the_answers_of_one_client_can_be_forgotten(tmp_path: Path):
    cache, other = (AnswerCache(tmp_path / "answers.sqlite") for _ in range(2))
    put(cache, [1])
    put(other, [2])
    cache.forget_own()
    assert found(other, [1, 2]) == {2: [2, -2]}
    cache.close()
    other.close()


def test_files_that_are_no_cache_are_refused_and_left_alone(tmp_path: Path):
    text, foreign = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("no database, but longer than the header of one " * 9)
    with closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE own (x)")
    before = foreign.read_bytes()
    with pytest.raises(
        ConfigError, match=r"notes.txt cannot be used as a cache: file is not a database; give another path or"
    ):
        AnswerCache(text)
    with pytest.raises(ConfigError, match="another program"):
        AnswerCache(foreign)
    assert foreign.read_bytes() == before
    with pytest.raises(ConfigError, match="No such file"):
        AnswerCache(tmp_path / "missing" / "a.sqlite")
    with pytest.raises(ConfigError, match="No such file"):
        AnswerCache(tmp_path / "a.sqlite", create=False)


def test_a_cache_whose_schema_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    with closing(AnswerCache(path)) as cache:
        put(cache, [1])
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xff\xfeBLE"))
    with pytest.raises(ConfigError, match=r"a.sqlite cannot be used as a cache: its schema is damaged; give another"):
        AnswerCache(path)


def test_a_store_without_a_path_leaves_no_file_and_is_empty_for_the_next(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = AnswerCache()
    put(cache, [1])
    assert found(cache, [1]) == {1: [1, -1]}
    with closing(AnswerCache()) as other:
        assert found(other, [1]) == {}
    cache.close()
    assert list(tmp_path.iterdir()) == []


_WRITER = """
    import sys
    import numpy as np
    from hashlib import blake2b
    from pathlib import Path
    from fanout.io.cache import AnswerCache, Origin
    cache, first = AnswerCache(Path(sys.argv[1])), int(sys.argv[2])
    for start in range(first, first + 100_000, 100):
        numbers = range(start, start + 100)
        keys = [blake2b(b"%d" % n, digest_size=16).digest() for n in numbers]
        cache.put(Origin(), [(keys, {"": np.array([[n, -n] for n in numbers], "f4")})])
        print(start + 100, flush=True)
"""


@pytest.mark.slow
def test_whatever_was_written_before_a_kill_is_there_and_right(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(path)]
    writers = [subprocess.Popen([*command, str(n * 100_000)], stdout=subprocess.PIPE, text=True) for n in range(3)]
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
    written = []
    for n, writer in enumerate(writers):
        writer.kill()
        assert writer.stdout is not None
        with writer.stdout:
            last = writer.stdout.read().split()
        writer.wait()
        written.append(range(n * 100_000, int(last[-1]) if last else n * 100_000 + 2000))
    cache = AnswerCache(path)
    for numbers in written:
        assert found(cache, list(numbers)) == {n: [n, -n] for n in numbers}
    put(cache, [7])
    cache.close()
