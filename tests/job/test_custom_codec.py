"""A job file names a codec class of the user's own, in a file or a module."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from fanout.cli import main
from fanout.errors import ConfigError
from fanout.io.journal.format import read_state
from fanout.job import check_job, dry_run, job_schema, job_status, load_job, load_job_or_outline, run_job
from tests.jobs import JOB

CODEC = """
import numpy as np
import orjson

import fanout
{imports}

class Double(fanout.Codec):
    def __init__(self, *, field, factor=1.0, **options):
        super().__init__(**options)
        self.field, self.factor = field, factor
        {constructor}

    def encode(self, rows):
        return fanout.Payload(body=orjson.dumps({"instances": rows.tolist()}))

    def decode(self, response, n_rows):
        return self.factor * np.array(response.json()[self.field])

class Half(fanout.Codec):
    def encode(self, rows):
        return fanout.Payload(body=b"")

not_a_codec = 3
"""


def write_codec(folder, name="my_codecs.py", imports="", constructor="pass"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(CODEC.replace("{imports}", imports).replace("{constructor}", constructor))


def job_text(codec, *options):
    return JOB.replace('name = "json"', "\n".join([f'name = "{codec}"', 'field = "predictions"', *options]))


@pytest.fixture(autouse=True)
def unchanged_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def problem(write_job, codec, *options):
    file = write_job(job_text(codec, *options))
    with pytest.raises(ConfigError) as caught:
        load_job(file)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{file}: codec.")
    return line.removeprefix(f"{file}: codec.")


@pytest.mark.parametrize("codec", ["my_codecs.py:Double", "own.my_codecs:Double"])
async def test_a_class_beside_the_job_file_is_its_codec(write_job, doubler, tmp_path, codec):
    write_codec(tmp_path, "own/my_codecs.py" if codec.startswith("own") else "my_codecs.py")
    job = load_job(write_job(job_text(codec, "factor = 10.0"), url=doubler.url))
    summary = await run_job(job)
    assert summary.exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), 20 * np.arange(10.0))
    # The path of the file is no part of the identity, so that the code can be moved.
    assert read_state(tmp_path / "out" / "y.npy.journal").identity["codec"]["name"] == "Double"


async def test_a_module_beside_the_codec_can_be_imported(write_job, doubler, tmp_path):
    (tmp_path / "beside_the_codec.py").write_text("factor = 3\n")
    write_codec(tmp_path, imports="import beside_the_codec")
    report = await check_job(load_job(write_job(job_text("my_codecs.py:Double"), url=doubler.url)))
    assert (report.codec, report.exit_code) == ("Double", 0)


async def test_a_file_called_as_a_module_of_the_library_does_not_take_its_place(write_job, doubler, tmp_path):
    write_codec(tmp_path, "json.py")
    assert (await check_job(load_job(write_job(job_text("json.py:Double"), url=doubler.url)))).exit_code == 0
    assert sys.modules["json"] is json


async def test_a_moved_codec_continues_its_run(write_job, doubler, tmp_path):
    write_codec(tmp_path)
    await run_job(load_job(write_job(job_text("my_codecs.py:Double"), url=doubler.url)))
    (tmp_path / "my_codecs.py").rename(tmp_path / "moved.py")
    summary = await run_job(load_job(write_job(job_text("moved.py:Double"), url=doubler.url)))
    assert (summary.ok, summary.earlier) == (10, 10)


async def test_an_edit_counts_in_the_next_load(write_job, doubler, tmp_path):
    write_codec(tmp_path)
    load_job(file := write_job(job_text("my_codecs.py:Double"), url=doubler.url))
    (tmp_path / "my_codecs.py").write_text((tmp_path / "my_codecs.py").read_text().replace("self.factor *", "5 *"))
    await run_job(load_job(file))
    assert np.load(tmp_path / "out" / "y.npy")[1] == 10


async def test_status_and_schema_run_no_code_of_the_job(write_job, doubler, tmp_path, capsys):
    write_codec(tmp_path)
    file = write_job(job_text("my_codecs.py:Double"), url=doubler.url)
    await run_job(load_job(file))
    write_codec(tmp_path, imports="raise SystemExit('imported')")
    status = job_status(load_job_or_outline(file))
    assert (status.ok, status.complete, status.current) == (10, True, None)
    job_schema()
    with pytest.raises(SystemExit) as ended:
        main(["status", str(file)])
    assert ended.value.code == 0
    assert "codec is code, which this command does not run" in capsys.readouterr().out


async def test_commands_that_rehearse_use_the_class(write_job, tmp_path):
    write_codec(tmp_path)
    job = load_job(write_job(job_text("my_codecs.py:Double"), url="http://127.0.0.1:9/predict"))
    assert (await dry_run(job)).survey.chunks == 3
    write_codec(tmp_path, imports="1/0")
    with pytest.raises(ConfigError):
        load_job(job.file)


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("my_codec.py:Double", "name: there is no file "),
        ("my_codec.py:Double", "did you mean 'my_codecs.py'?"),
        ("sub/my_codecs.py:Double", "sub/my_codecs.py"),
        ("no_such.module:Double", "name: there is no module 'no_such' on the Python path or in "),
        ("my_codecs.py:Doubel", "name: my_codecs.py has no class 'Doubel'; did you mean 'Double'?"),
        ("my_codecs.py:X", "name: my_codecs.py has no class 'X'; its codecs are Double, Half"),
        ("my_codecs.py:not_a_codec", "name: not_a_codec in my_codecs.py is no subclass of fanout.Codec"),
        ("my_codecs.py:np", "name: np in my_codecs.py is no subclass of fanout.Codec"),
        ("my_codecs.py:Half", "name: Half in my_codecs.py does not define decode, which every codec needs"),
        ("my_codecs.py", "name: 'my_codecs.py' names no class; write "),
        (":Double", "name: ':Double' names no class; write "),
    ],
)
def test_a_wrong_name_is_one_line_with_the_remedy(write_job, tmp_path, codec, expected):
    write_codec(tmp_path)
    assert expected in problem(write_job, codec)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import no_such_module", "line 6: ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "line 6: ZeroDivisionError: division by zero"),
        ("def broken(:", "line 6: SyntaxError: "),
        ("import sys; sys.exit(3)", "line 6: SystemExit: 3"),
        ("json = __import__('json').loads('{')", "line 6: JSONDecodeError: "),
        ("raise ValueError('two\\nlines')", "line 6: ValueError: two lines"),
    ],
)
@pytest.mark.parametrize("codec", ["my_codecs.py:Double", "my_codecs:Double"])
def test_an_error_of_the_code_names_its_file_and_line(write_job, tmp_path, codec, code, expected):
    write_codec(tmp_path, imports=code)
    place = "my_codecs" if "SyntaxError" not in expected and ".py" not in codec else "my_codecs.py"
    assert problem(write_job, codec).startswith(f"name: {place}, {expected}")


def test_an_error_of_the_constructor_names_its_line(write_job, tmp_path):
    write_codec(tmp_path, constructor="raise ValueError('no')")
    assert problem(write_job, "my_codecs.py:Double") == "name: my_codecs.py, line 12: ValueError: no"
    write_codec(tmp_path, constructor="raise fanout.ConfigError('field must be long', key='field')")
    assert problem(write_job, "my_codecs.py:Double") == "field: must be long"


def test_options_are_checked_by_name(write_job, tmp_path):
    write_codec(tmp_path)
    line = problem(write_job, "my_codecs.py:Double", "shap = [1]")
    assert line.startswith("shap: ")
    assert "did you mean 'shape'?" in line
    (tmp_path / "my_codecs.py").write_text((tmp_path / "my_codecs.py").read_text().replace(", **options", ""))
    line = problem(write_job, "my_codecs.py:Double", "factr = 2")
    assert line.startswith("factr: ")
    assert "did you mean 'factor'?" in line
    text = job_text("my_codecs.py:Double").replace('field = "predictions"', "")
    with pytest.raises(ConfigError, match=r"codec\.field: is missing: Double has no default for it"):
        load_job(write_job(text))


def test_the_command_prints_no_traceback(write_job, tmp_path, capsys):
    write_codec(tmp_path, imports="raise ValueError('\\x1b[31mred')")
    file = write_job(job_text("my_codecs.py:Double"))
    for command in ("run", "check", "tune"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(file)])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {file}: codec.name: my_codecs.py, line 6: ValueError: ")
        assert "\x1b" not in line
