"""The public names of the package, and the cost of its import."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fanout

HEAVY = {"aiohttp", "numpy", "orjson", "tenacity", "asyncio"}
EXTRA = {"pydantic", "click", "rich", "jmespath", "msgspec", "simdjson", "uvloop", "opentelemetry", "prometheus_client"}
SERVERS = {"fanout.serving", "fanout.testing", "fanout.cli", "fanout.job"}


def imported_by(code: str) -> set[str]:
    """Return the names of all modules that are loaded after ``code`` has run in a new interpreter."""
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


def for_the_type_checker() -> dict[str, str]:
    """Return public name -> module, as ``fanout/__init__.py`` declares it for type checkers."""
    tree = ast.parse(inspect.getsource(fanout))
    guard = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in guard.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_importing_the_package_loads_no_dependency():
    assert not (HEAVY | EXTRA | {"fanout.errors"}) & imported_by("import fanout")


def test_windows_gets_one_clear_error():
    code = "import sys; sys.platform = 'win32'; import fanout"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode != 0
    assert "ImportError: fanout runs on Linux and macOS" in ran.stderr
    assert "WSL" in ran.stderr


def test_the_settings_and_errors_need_no_dependency():
    loaded = imported_by("import fanout; fanout.Limits(); fanout.Endpoint(url='http://h'); fanout.RunStopped")
    assert not (HEAVY | EXTRA) & loaded


def test_the_library_needs_neither_the_command_line_nor_optional_parsers():
    assert not (EXTRA | SERVERS) & imported_by("from fanout import *")


def test_a_first_map_loads_only_what_it_needs():
    code = """
import numpy, fanout
client = fanout.Client("http://127.0.0.1:9/v1/models/m:predict", codec="v1")
async def closed():
    async with client:
        pass
import asyncio
asyncio.run(closed())
fanout.map
"""
    loaded = imported_by(code)
    unneeded = {
        "fanout.auth.clouds", "fanout.auth.command", "fanout.auth.oauth2", "fanout.client.caching",
        "fanout.client.file_run", "fanout.client.identity", "fanout.client.inspect", "fanout.codecs.oip",
        "fanout.codecs.openai_chat", "fanout.codecs.openai_embeddings", "fanout.engine.answer_store",
        "fanout.engine.sharing", "fanout.io.cache", "fanout.io.journal", "fanout.io.readers.opening",
        "fanout.io.readers.tables", "fanout.io.writers", "fanout.presets.applied", "fanout.telemetry",
        "csv", "gzip", "sqlite3", "statistics", "tomllib", "xxhash", "zipfile",
    }  # fmt: skip
    assert not (unneeded | SERVERS) & loaded
    # Each takes about a quarter of a millisecond.
    assert len([name for name in loaded if name.split(".")[0] == "fanout"]) <= 145


def test_the_codecs_by_name_load_no_command_line():
    names = ("v1", "oip", "json", "openai-embeddings", "openai-chat")
    codecs = ", ".join(f"fanout.codec({name!r})" for name in names)
    loaded = imported_by(f"import fanout; {codecs}")
    assert not ({"pydantic", "click", "rich", "uvloop"} | SERVERS) & loaded


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]], ids=" ".join)
def test_help_is_quick_since_it_loads_neither_aiohttp_nor_numpy(arguments):
    code = f"""
import contextlib, io, sys
from fanout.cli import main
sys.argv = ["fanout", *{arguments!r}]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
    main()
assert shown.getvalue()
"""
    assert not {"aiohttp", "numpy", "pydantic", "jmespath", "tenacity", "uvloop"} & imported_by(code)


@pytest.mark.parametrize("name", fanout.__all__)
def test_every_public_name_resolves_and_is_cached(name):
    value = getattr(fanout, name)
    assert value is not None
    assert vars(fanout)[name] is value  # the second look-up costs nothing


def test_all_equals_the_namespace():
    assert set(fanout.__all__) == {*for_the_type_checker(), "__version__"}
    assert len(fanout.__all__) == len(set(fanout.__all__))
    assert dir(fanout) == sorted(fanout.__all__)


def test_type_checkers_see_the_same_names_and_modules():
    declared = for_the_type_checker()
    assert {*declared, "__version__"} == set(fanout.__all__)
    for name, module in declared.items():
        assert getattr(__import__(module, fromlist=[name]), name) is getattr(fanout, name)


def test_a_name_that_is_not_exported_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fanout' has no attribute 'Clint'"):
        _ = fanout.Clint


def test_everything_can_be_star_imported():
    loaded = imported_by("from fanout import *; assert Client and codec and __version__")
    assert "fanout.client" in loaded


def test_the_package_is_typed():
    assert (Path(fanout.__file__).parent / "py.typed").exists()


def test_the_version_is_one_that_package_managers_can_order():
    assert all(part.isdigit() for part in fanout.__version__.split(".")[:2])


@pytest.mark.parametrize("name", sorted(set(fanout.__all__) - {"__version__"}))
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(fanout, name))
