"""Sphinx's settings for the documentation site; `scripts/docs` builds it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fanout import __version__

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from job_keys import fill  # noqa: E402 - Sphinx does not put the folder of this file on the path

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "fanout"
author = "the fanout authors"
project_copyright = "the fanout authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["conf.py", "job_keys.py"]
html_theme = "furo"
html_title = f"fanout {release}"
html_theme_options = {"navigation_with_keys": True}

# GitHub makes the same anchors of headings, so one link works in both places.
myst_heading_anchors = 4
copybutton_prompt_text = "$ "

# `Name` in a docstring is a reference where the name is documented, and code elsewhere.
default_role = "py:obj"
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True


def _fill_page(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = fill(source[0], (ROOT / "fanout.schema.json").read_bytes())


# Napoleon reads the docstring of an attribute as "type: description", but here a colon is a colon.
_of_attribute: dict[str, list[str]] = {}


def _keep(_app: Sphinx, what: str, name: str, _object: object, _options: object, lines: list[str]) -> None:
    if what in ("attribute", "data", "property"):
        _of_attribute[name] = list(lines)


def _restore(_app: Sphinx, _what: str, name: str, _object: object, _options: object, lines: list[str]) -> None:
    if name in _of_attribute:
        lines[:] = _of_attribute.pop(name)


def setup(app: Sphinx) -> None:
    """Replace the placeholders of job keys before a page is parsed, and keep docstrings of attributes as they are."""
    app.connect("source-read", _fill_page)
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
