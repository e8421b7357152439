"""Keep the pages in docs/ in agreement with the code: settings, codecs, kinds of stops, public and named objects."""

from __future__ import annotations

import ast
import keyword
import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import fanout
import fanout.testing
from fanout.auth import auth_types
from fanout.codecs import names
from fanout.types import StopKind

ROOT = Path(__file__).absolute().parents[1]
HOME = Path(fanout.__file__).absolute().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ARCHITECTURE = (DOCS / "architecture.md").read_text("utf-8")
SOURCES = sorted((HOME / "fanout").rglob("*.py"))
FOREIGN_NAMES = {
    "AIMDLimit", "BisectBatchOnFunctionError", "CapacityLimiter", "Gradient2Limit", "IterableDataset",
    "M_MMAP_THRESHOLD", "NA", "NO_COLOR", "TaskGroup", "_SUCCESS", "completion_tokens_details", "datasets",
    "id_", "last_value", "malloc", "pytest11", "pytest_asyncio_loop_factories", "stop_before_delay", "temperature",
}  # fmt: skip
"""Names of other projects and systems, and suffixes that a name is given."""

SCHEMA = (ROOT / "fanout.schema.json").read_bytes()


@pytest.fixture(scope="module")
def job_keys() -> Any:
    """The module that fills in the tables of keys. It is no part of the package."""
    spec = spec_from_file_location("job_keys", DOCS / "job_keys.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_placeholder_becomes_a_table_of_keys_with_types_and_defaults(job_keys: Any) -> None:
    page = job_keys.fill("before\n<!-- keys: chunks -->\nafter", SCHEMA).splitlines()
    assert page[0] == "before"
    assert page[1] == "| key | type | default | meaning |"
    assert page[3].startswith("| `rows` | whole number | `64` | ")
    assert page[-1] == "after"


def test_required_keys_and_choices_are_shown(job_keys: Any) -> None:
    assert "| `path` | text | required |" in job_keys.fill("<!-- keys: output -->", SCHEMA)
    assert '| `concurrency` | whole number or `"auto"` | `16` |' in job_keys.fill("<!-- keys: limits -->", SCHEMA)
    assert '| `nonfinite` | `"reject"`, `"keep"` | `"reject"` |' in job_keys.fill("<!-- options: * -->", SCHEMA)


def test_an_unknown_table_is_an_error(job_keys: Any) -> None:
    with pytest.raises(KeyError, match="limit"):
        job_keys.fill("<!-- keys: limit -->", SCHEMA)


def test_the_page_of_job_files_has_every_table_of_the_schema(job_keys: Any) -> None:
    page = (DOCS / "job-files.md").read_text("utf-8")
    assert re.findall(r"^<!-- keys: (\w+) -->$", page, re.MULTILINE) == list(job_keys.tables(SCHEMA))


def test_the_page_of_codecs_has_the_options_of_every_packaged_codec(job_keys: Any) -> None:
    page = (DOCS / "codecs.md").read_text("utf-8")
    described = re.findall(r"^<!-- options: ([\w-]+) -->$", page, re.MULTILINE)
    assert sorted(described) == sorted(names()) == sorted(job_keys.codecs(SCHEMA))
    assert all(f"| `{name}` |" in page for name in described)


def test_the_page_of_authentication_has_the_keys_of_every_type() -> None:
    page = (DOCS / "auth.md").read_text("utf-8")
    assert sorted(re.findall(r"^<!-- auth: ([\w-]+) -->$", page, re.MULTILINE)) == sorted(auth_types())
    assert all(f"| `{name}` " in page for name in auth_types())


def test_the_reference_has_every_public_name_once() -> None:
    directive = re.compile(r"^\.\. (?:auto\w+|py:data):: (\w+)$", re.MULTILINE)
    documented = {page.stem: directive.findall(page.read_text("utf-8")) for page in (DOCS / "api").glob("*.md")}
    in_testing = documented.pop("testing")
    assert sorted(in_testing) == sorted(fanout.testing.__all__)
    everything = sorted(name for page in documented.values() for name in page)
    assert everything == sorted(set(fanout.__all__) - {"__version__"})


def test_troubleshooting_has_every_kind_of_stop_and_every_public_error() -> None:
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    kinds = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(get_args(StopKind)) <= set(kinds)
    for name in fanout.__all__:
        value = getattr(fanout, name)
        if isinstance(value, type) and issubclass(value, BaseException):
            assert f"`{name}" in page, name


def test_monitoring_has_every_kind_of_event() -> None:
    page = (DOCS / "monitoring.md").read_text("utf-8").partition("## Events")[2]
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    kinds = get_args(get_type_hints(fanout.Event)["kind"])
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(kinds)


def test_the_page_of_examples_has_every_example() -> None:
    page = (DOCS / "examples.md").read_text("utf-8")
    listed = set(re.findall(r"\(\.\./examples/([\w.]+)\)", page))
    files = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".toml")}
    assert listed == files - {"example_models.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_line_of_prose_fits_the_width(page: Path) -> None:
    for line in page.read_text("utf-8").splitlines():
        assert len(line) <= 120 or line.startswith(("|", "![")) or "https://" in line, line


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_the_paths_in_a_page_exist(page: Path) -> None:
    for path in re.findall(r"`((?:fanout|tests|scripts|docs|benchmarks|examples)/[\w/.-]*)`", page.read_text("utf-8")):
        place = (HOME if path.startswith("fanout/") else ROOT) / path
        # A package that was removed may leave a folder with nothing but __pycache__ in a work tree.
        assert place.is_file() or any(place.glob("*.*")), path


@pytest.mark.parametrize(
    ("name", "file"), sorted(set(re.findall(r"\[`([\w.]+)`\]\(\.\./(fanout/[\w/]+)\.py\)", ARCHITECTURE)))
)
def test_a_name_in_the_architecture_is_defined_in_the_linked_file(name: str, file: str) -> None:
    value: Any = import_module(file.replace("/", ".").removesuffix(".__init__"))
    for part in name.split("."):
        value = getattr(value, part)
    assert value.__module__.replace(".", "/") in (file, file.removesuffix("/__init__"))


def test_the_architecture_has_every_package() -> None:
    packages = {file.parent.name for file in (HOME / "fanout").glob("*/__init__.py")}
    assert packages == {name for name in packages if f"`fanout/{name}`" in ARCHITECTURE}


def test_the_glossary_has_20_to_40_terms_in_alphabetical_order() -> None:
    glossary = ARCHITECTURE.partition("## Glossary")[2].partition("\n## ")[0]
    terms = re.findall(r"^\| ([a-zA-Z][^|]*) \|", glossary, re.MULTILINE)[1:]
    assert 20 <= len(terms) <= 40
    assert terms == sorted(terms, key=str.lower)


def _names_in_code() -> set[str]:
    presets = list((HOME / "fanout" / "presets").glob("*.toml"))
    names = {name for path in presets for name in (path.stem, *re.findall(r"\w+", path.read_text("utf-8")))}
    for path in (*SOURCES, *ROOT.glob("scripts/*.py"), *ROOT.glob("scripts/servers/*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = None  # a docstring, which is no code
            for field in ("id", "attr", "name", "arg", "asname", "module", "value"):
                if isinstance(text := getattr(node, field, None), str):
                    names.update(re.findall(r"\w+", text))
    return names


def test_every_name_in_backticks_exists() -> None:
    """A rename can leave stale text behind, such as the name of a method to override that is gone."""
    known = _names_in_code() | FOREIGN_NAMES | {"Test", *keyword.kwlist}
    texts = {path: path.read_text("utf-8") for path in (*SOURCES, *PAGES)}
    unknown = {
        f"{path.name}: {name}"
        for path, text in texts.items()
        for name in re.findall(r"(?<![`\w])`{1,2}([A-Za-z_][\w.]*)(?:\([^`\n]*\))?`{1,2}(?!`)", text)
        if name.rstrip(".").split(".")[-1] not in known
    }
    assert not unknown
