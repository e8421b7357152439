"""Inputs in object stores, against an S3 server."""

import gzip
import io
import pickle
import sys

import numpy as np
import pytest

import fanout
from fanout.errors import ConfigError, InputError
from fanout.io.remote.destination import Abandoned, Destination
from fanout.rows import count_rows, single_rows

X = np.arange(6_000.0).reshape(-1, 4)
CSV = "a,b\n" + "".join(f"{i},t{i}\n" for i in range(15_000))


def as_npy(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def as_npz():
    data = io.BytesIO()
    np.savez_compressed(data, x=X)
    return data.getvalue()


def table():
    pa = pytest.importorskip("pyarrow")
    return pa.table({"x": X[:, 0], "text": [f"t{i}" for i in range(len(X))]})


def as_parquet():
    from pyarrow import parquet

    data = io.BytesIO()
    parquet.write_table(table(), data, row_group_size=400)
    return data.getvalue()


def as_arrow():
    import pyarrow as pa

    data = io.BytesIO()
    with pa.ipc.new_file(data, table().schema) as writer:
        writer.write_table(table(), 400)
    return data.getvalue()


def rows_of(source, start=0):
    return [row for block in source.blocks_from(start) for row in single_rows(block.rows)]


FORMATS = {
    "x.npy": (lambda: as_npy(X), None),
    "fortran.npy": (lambda: as_npy(np.asfortranarray(X)), None),
    "x.npz": (as_npz, "x"),
    "x.parquet": (as_parquet, "text"),
    "x.arrow": (as_arrow, "text"),
    "x.csv": (CSV.encode, "b"),
    "x.csv.gz": (lambda: gzip.compress(CSV.encode()), "b"),
    "x.jsonl": (lambda: b'{"a": 1}\n{"a": 2}\n', "a"),
    "x.txt": (lambda: b"one\ntwo", None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_rows_of_a_local_file(s3, tmp_path, name):
    make, column = FORMATS[name]
    s3.put(f"in/{name}", make())
    (tmp_path / name).write_bytes(make())
    local = fanout.open_source(tmp_path / name, column)
    remote = fanout.open_source(f"s3://data/in/{name}", column, storage=s3.storage)
    assert (remote.n_rows, remote.estimate_rows()) == (local.n_rows, local.estimate_rows())
    for start in (0, 1):
        assert list(map(str, rows_of(remote, start))) == list(map(str, rows_of(local, start)))


def test_a_pattern_and_a_folder_name_the_same_objects_in_natural_order(s3):
    for name in ("part-1.csv", "part-10.csv", "part-2.csv", "empty.csv", "_SUCCESS", ".hidden.csv"):
        s3.put(f"p/{name}", b"" if name == "empty.csv" else f"a\n{name}\n".encode())
    s3.put("p/deeper/q/part-3.csv", b"a\ndeeper\n")
    names = ["part-1.csv", "part-2.csv", "part-10.csv"]
    for url in ("s3://data/p/*.csv", "s3://data/p/part-[0-9]*.csv", "s3://data/*/*.csv"):
        assert rows_of(fanout.open_source(url, "a", storage=s3.storage)) == names
    assert rows_of(fanout.open_source("s3://data/p/**/part-*.csv", "a", storage=s3.storage)) == ["deeper", *names]
    with pytest.raises(InputError, match=r"s3://data/p/ holds folders too \(deeper\): name the files with a pattern"):
        fanout.open_source("s3://data/p/", "a", storage=s3.storage)
    s3.remove("p/deeper/q/part-3.csv")
    for url in ("s3://data/p/", "s3://data/p"):
        assert rows_of(fanout.open_source(url, "a", storage=s3.storage)) == names


def test_an_object_comes_before_a_pattern_of_its_name(s3):
    s3.put("p/x[1].csv", b"a\nbrackets\n")
    s3.put("p/x1.csv", b"a\nother\n")
    assert rows_of(fanout.open_source("s3://data/p/x[1].csv", "a", storage=s3.storage)) == ["brackets"]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.npy", "x.parquet"])
def test_a_change_while_reading_is_an_error(s3, name, monkeypatch):
    monkeypatch.setattr("fanout.io.remote.file._FIRST_BYTES", 16)
    make, column = FORMATS[name]
    s3.put(name, make())
    source = fanout.open_source(f"s3://data/{name}", column, storage=s3.storage)
    # As long as before, so that the size alone does not show it.
    data = bytearray(make())
    data[-3] ^= 1
    s3.put(name, bytes(data))
    with pytest.raises(InputError, match=f"s3://data/{name} was changed while it was read: run again"):
        rows_of(source)
    s3.remove(name)
    with pytest.raises(InputError, match="was changed"):
        rows_of(source)


def test_remote_files_are_rows_with_their_names(s3):
    contents = {f"{i}.png": bytes([i]) * 10 for i in range(1, 20)} | {"deep/20.png": b"deep"}
    for name, content in contents.items():
        s3.put(f"photos/{name}", content)
    options = {"columns": ["name", "file"], "storage": s3.storage}
    source = fanout.open_source("s3://data/photos/**/*.png", **options)
    rows = rows_of(source)
    assert [row["name"] for row in rows] == [*list(contents)[:-1], "deep/20.png"]
    assert [row["file"] for row in rows] == list(contents.values())
    assert rows_of(source, 18) == rows[18:]
    before = source.fingerprint()
    s3.put("photos/1.png", b"")
    s3.put("photos/2.png", bytes(1000))
    source = fanout.open_source("s3://data/photos/*.png", file_max_bytes=100, **options)
    reasons = [row["file"].reason for row in rows_of(source)[:2]]
    assert reasons == [
        "the file '1.png' is empty",
        "the file '2.png' has 1,000 bytes, more than input.file_max_bytes = 100",
    ]
    assert source.fingerprint() != before


def test_the_fingerprint_follows_the_content(s3):
    def fingerprint():
        return fanout.open_source("s3://data/x.csv", "a", storage=s3.storage).fingerprint()

    s3.put("x.csv", b"a\n1\n")
    first = fingerprint()
    s3.put("x.csv", b"a\n1\n")
    assert fingerprint() == first
    s3.put("x.csv", b"a\n2\n")
    assert fingerprint() != first
    assert first["files"][0].keys() == {"url", "size", "etag"}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://data/none.csv", "no object, and no folder of objects, s3://data/none.csv"),
        ("s3://data/*.csv", "no object matches s3://data/*.csv"),
        ("s3://missing/x.csv", "s3://missing/x.csv cannot be read: NoSuchBucket"),
        ("s3://data/x.odd", ".odd is not the suffix of a known format"),
    ],
)
def test_an_input_that_cannot_be_read_is_an_error(s3, url, problem):
    s3.put("x.odd", b"1")
    with pytest.raises(InputError) as caught:
        fanout.open_source(url, storage=s3.storage)
    assert problem in str(caught.value)
    assert caught.value.key == "input.path"


def test_an_error_of_the_server_passes_once_it_answers_again(s3):
    s3.put("x.csv", CSV.encode())
    failing = [503, 500]
    s3.before = lambda method, path: failing.pop() if failing else None
    assert len(rows_of(fanout.open_source("s3://data/x.csv", "a", storage=s3.storage))) == 15_000


def test_a_refusal_shows_no_secret(s3):
    s3.before = lambda method, path: 403
    with pytest.raises(InputError) as caught:
        fanout.open_source("s3://data/x.csv", storage=s3.storage)
    assert "403" in str(caught.value)
    assert not any(value in str(caught.value) for value in (s3.options["secret_access_key"], "Debug"))


def test_an_unknown_option_is_named(s3):
    with pytest.raises(ConfigError, match="'endpoit' is not valid") as caught:
        fanout.open_source("s3://data/x.csv", storage=fanout.Storage(s3={**s3.options, "endpoit": "x"}))
    assert caught.value.key == "storage.s3.endpoit"


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    for open_it, key in ((fanout.open_source, "input.path"), (fanout.open_sink, "output.path")):
        with pytest.raises(ConfigError, match=r"pip install 'fanout-ml\[cloud\]'") as caught:
            open_it("s3://data/x.npy")
        assert caught.value.key == key


def test_credentials_are_in_no_repr_and_in_no_pickle(s3):
    s3.put("x.csv", CSV.encode())
    source = fanout.open_source("s3://data/x.csv", "a", storage=s3.storage)
    secret = s3.options["secret_access_key"]
    for one in (s3.storage, source.files[0]):
        assert secret.encode() not in pickle.dumps(one)
        assert secret not in repr(one)
    assert pickle.loads(pickle.dumps(s3.storage)) == fanout.Storage()


def test_another_process_reads_with_the_credentials_of_its_environment(s3, monkeypatch):
    s3.put("x.csv", b"a\n1\n")
    pickled = pickle.dumps(fanout.open_source("s3://data/x.csv", "a", storage=s3.storage))
    for name, value in s3.options.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    assert count_rows(next(pickle.loads(pickled).blocks()).rows) == 1


def test_keys_and_region_come_from_a_profile(s3, tmp_path, monkeypatch):
    pytest.importorskip("botocore")
    s3.put("x.csv", b"a\n1\n")
    s3.authorizations.clear()
    keys = "aws_access_key_id = AKIAPROFILE\naws_secret_access_key = key-of-team\n"
    (tmp_path / "credentials").write_text(f"[team]\n{keys}")
    (tmp_path / "config").write_text("[profile team]\nregion = eu-north-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_PROFILE", "team")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    source = fanout.open_source("s3://data/x.csv", "a", storage=fanout.Storage(s3={"endpoint": s3.url}))
    assert rows_of(source) == [1]
    assert all("AKIAPROFILE/" in one and "/eu-north-1/s3/" in one for one in s3.authorizations)


def test_a_public_bucket_is_read_without_keys(s3):
    s3.put("x.csv", b"a\n1\n", public=True)
    s3.authorizations.clear()
    options = {"endpoint": s3.url, "region": "us-east-1", "skip_signature": True}
    assert rows_of(fanout.open_source("s3://data/x.csv", "a", storage=fanout.Storage(s3=options))) == [1]
    assert s3.authorizations == {""}


@pytest.fixture
def destination(s3, tmp_path):
    """An output whose local files are there."""
    one = Destination("s3://data/out/y.npy", s3.storage, tmp_path)
    one.local.parent.mkdir(parents=True)
    one.local.write_bytes(b"values")
    return one


def beside(destination, suffix, data):
    path = destination.local.with_name(destination.local.name + suffix)
    path.write_bytes(data)
    return path


def never():
    return False


def test_files_are_uploaded_once_and_again_after_a_change_or_a_loss(s3, destination):
    files = [beside(destination, ".ok.npy", b"mask"), destination.local]
    assert not destination.is_uploaded(files)
    destination.upload(files, never)
    assert destination.is_uploaded(files)
    assert (s3.get("out/y.npy"), s3.get("out/y.npy.ok.npy")) == (b"values", b"mask")
    s3.requests.clear()
    destination.upload(files, never)
    assert {method for method, _ in s3.requests} == {"HEAD"}
    s3.remove("out/y.npy")
    destination.upload(files, never)
    assert s3.get("out/y.npy") == b"values"
    s3.put("out/y.npy", b"of somebody else")
    destination.upload(files, never)
    assert s3.get("out/y.npy") == b"values"


@pytest.mark.parametrize("had_mask", [True, False])
@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_mask_of_one_run_is_never_beside_the_values_of_another(s3, destination, had_mask, has_mask, step):
    mask = beside(destination, ".ok.npy", b"old mask")
    destination.upload([mask, destination.local] if had_mask else [destination.local], never)
    destination.local.write_bytes(b"new values")
    mask.write_bytes(b"new mask")
    files = [mask, destination.local] if has_mask else [destination.local]
    changes = []

    def fail_at_step(method, path):
        changes.extend([path] if method != "HEAD" else [])
        return 403 if method != "HEAD" and len(changes) >= step else None

    s3.before = fail_at_step
    ends = [("values", b"old mask" if had_mask else None), ("new values", b"new mask" if has_mask else None)]
    try:
        destination.upload(files, never)
    except OSError:
        s3.before = lambda method, path: None
        assert not destination.is_uploaded(files)
    s3.before = lambda method, path: None
    stored = {key: s3.get(key) for key in s3.listed()}
    values = stored.get("out/y.npy")
    assert values is None or (values.decode(), stored.get("out/y.npy.ok.npy")) in ends
    destination.upload(files, never)
    stored = {key: s3.get(key) for key in s3.listed()}
    assert (stored["out/y.npy"].decode(), stored.get("out/y.npy.ok.npy")) == ends[1]


def test_files_of_an_earlier_run_that_this_one_lacks_are_removed_values_before_their_mask(s3, destination):
    files = [beside(destination, f".{name}.npy", b"") for name in ("ok", "score")]
    destination.upload(files, never)
    removals = []

    def fail_at_the_second_removal(method, path):
        removals.extend([path] if method not in ("HEAD", "GET") else [])
        return 403 if len(removals) > 1 else None

    s3.before = fail_at_the_second_removal
    with pytest.raises(OSError, match="403"):
        destination.upload([destination.local], never)
    s3.before = lambda method, path: None
    # Without their mask, failed rows would look like answers.
    assert s3.listed() == ["out/y.npy.ok.npy"]
    destination.upload([destination.local], never)
    assert s3.listed() == ["out/y.npy"]


def test_an_upload_that_is_abandoned_leaves_no_object(s3, destination, monkeypatch):
    monkeypatch.setattr("fanout.io.remote.object_stores._PART_BYTES", 5 * 2**20)
    destination.local.write_bytes(bytes(24 * 2**20))
    parts = []
    s3.before = lambda method, path: parts.append(path) if "partNumber" in path else None
    with pytest.raises(Abandoned):
        destination.upload([destination.local], lambda: bool(parts))
    assert s3.listed() == []
    assert not destination.is_uploaded([destination.local])
    destination.upload([destination.local], never)
    assert s3.get("out/y.npy") == bytes(24 * 2**20)


def test_whoever_may_write_but_not_read_can_upload(s3, destination):
    s3.before = lambda method, path: 403 if method == "HEAD" else None
    destination.upload([destination.local], never)
    s3.requests.clear()
    destination.upload([destination.local], never)
    assert "PUT" not in {method for method, _ in s3.requests}


def test_another_store_gets_the_files_too(s3, destination, tmp_path):
    destination.upload([destination.local], never)
    s3.remove("out/y.npy")
    other = fanout.Storage(s3={**s3.options, "endpoint": s3.url.replace("127.0.0.1", "localhost")})
    assert not Destination("s3://data/out/y.npy", other, tmp_path).is_uploaded([destination.local])
