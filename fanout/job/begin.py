"""The beginning of a job: a draft from its input and its endpoint, and one request that completes it.

`fanout init` asks for what the flags leave open, and writes the draft.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from fanout._url import LOCAL
from fanout.addresses import Endpoint
from fanout.codecs import codec as codec_by_name
from fanout.codecs import codec_class
from fanout.errors import ConfigError, FanoutError, InvalidResponse
from fanout.job.check import check_job
from fanout.job.custom_codec import is_custom
from fanout.job.fields import find_answers
from fanout.job.load import load_job
from fanout.job.openapi import Template, operations, template_for
from fanout.options import required_options
from fanout.presets import load_preset
from fanout.settings import Timeouts
from fanout.transport import EndpointClient
from fanout.types import DecodedResponse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fanout.job.edit import Draft
    from fanout.job.fields import InputFields
    from fanout.job.openapi import Operation
    from fanout.job.report import CheckReport
    from fanout.types import Array

_CODEC_OF_PATH = (
    (re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer/?$"), "oip"),
    (re.compile(r"/v1/models/[^/]+:predict/?$"), "v1"),
    (re.compile(r"/embeddings/?$"), "openai-embeddings"),
    (re.compile(r"/chat/completions/?$"), "openai-chat"),
)
_OF_TEXTS = ("openai-embeddings", "openai-chat")
# More than one row, so that a list of answers differs from the answer to one row.
_PROBE_ROWS = 3
# A person waits at the terminal.
_SECONDS = 10.0


def guessed_codec(url: str) -> str | None:
    """Return the codec whose protocol has the URL's path; None if none has."""
    if url.startswith(LOCAL):
        # The packaged server speaks this protocol for every model, with the least work for large arrays.
        return "oip"
    path = urlsplit(url).path
    return next((name for pattern, name in _CODEC_OF_PATH if pattern.search(path)), None)


async def published_operations(url: str) -> list[Operation]:
    """Return the operations in the server's OpenAPI document; none if it publishes none.

    One GET of ``/openapi.json`` at the URL's origin, without credentials.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return []
    document_url = f"{parts.scheme}://{parts.netloc}/openapi.json"
    timeouts = Timeouts(connect=_SECONDS, attempt=_SECONDS)
    client = EndpointClient(Endpoint(url=document_url), document_url, timeouts=timeouts, connections=1)
    try:
        response = await client.get(document_url)
        return operations(orjson.loads(response.body)) if response.status == 200 else []
    # Most servers publish no such document, and none is needed: the user then describes the request.
    except (FanoutError, orjson.JSONDecodeError):
        return []
    finally:
        await client.close()


def fill_template(draft: Draft, operation: Operation | None, fields: InputFields) -> Template:
    """Set the codec `json` with the request of an operation; without one, of an object of all columns a row."""
    if operation is None:
        names = list(fields.columns)
        request: Any = {name: f"{{{{{name}}}}}" for name in names} if names else "{{row}}"
        template = Template(request=request)
    else:
        template = template_for(operation, fields)
    draft.set("codec", "name", "json")
    draft.set("codec", "request", template.request, "the body; {{column}} stands for a value of the row")
    if template.item is not None:
        draft.set("codec", "item", template.item, "the form of each element of {{rows}}")
    if template.as_vector:
        _set_vector(draft, fields)
    return template


def set_rows(draft: Draft, fields: InputFields, codec: str | None) -> list[str]:
    """Set the columns for a codec that takes whole rows. Returns the choices if only the user can choose."""
    if not fields.columns or {"column", "columns"} & draft.tables["input"].keys():
        return []
    wanted = fields.named("text") if codec in _OF_TEXTS or codec is None else fields.named("vector", "JSON")
    numbers = fields.named("number")
    if not wanted and codec not in _OF_TEXTS and len(numbers) > 1:
        _set_vector(draft, fields)
        return []
    # Without a column of the right kind the user has to choose: a column of numbers may hold texts, such as codes.
    choices = wanted or list(fields.columns)
    if len(choices) == 1:
        draft.set("input", "column", choices[0])
        return []
    return choices


def _set_vector(draft: Draft, fields: InputFields) -> None:
    if not {"column", "columns"} & draft.tables["input"].keys():
        numbers = fields.named("number")
        # One pattern is easier to read than many names.
        pattern = f"{_common_beginning(numbers)}*"
        by_pattern = [name for name in fields.columns if fnmatchcase(name, pattern)]
        draft.set("input", "columns", [pattern] if by_pattern == numbers else numbers)
    draft.set("input", "as", "vector", "a row is the list of these numbers")


def _common_beginning(names: Sequence[str]) -> str:
    # The names between the first and the last in the order of the alphabet begin as these two do.
    first, last = min(names, default=""), max(names, default="")
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:n]


def missing_options(table: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the options that a codec or preset requires and the table ``codec`` lacks: name -> meaning."""
    if "preset" in table:
        preset = load_preset(table["preset"], folder)
        return {name: one.meaning for name, one in preset.parameters.items() if one.required and name not in table}
    # Only an import of the user's code could show its options.
    if is_custom(table["name"]):
        return {}
    required = required_options(codec_class(table["name"]))
    return {name: f"option of the codec {table['name']}" for name in required if name not in table}


def absent_columns(table: Mapping[str, Any], folder: Path, fields: InputFields) -> list[str] | None:
    """Return the columns that the codec's template names and the input lacks; None if it takes whole rows.

    Raises:
        ConfigError: an option of the table ``codec`` cannot be used.
    """
    options = {key: value for key, value in table.items() if key != "preset"}
    if "preset" in table:
        options = load_preset(table["preset"], folder).fill(options)[1]["codec"]
    columns = codec_by_name(**{"name": "json", **options}).columns
    if columns is None:
        return None
    return sorted(name for name in columns if not {name, name.partition(".")[0]} & fields.columns.keys())


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """The outcome of a probe.

    Attributes:
        report: of the check that sent it.
        answers: name -> answers to the rows of the probe; None if they could not be read.
        problem: reason why they could not be read.
    """

    report: CheckReport
    answers: Mapping[str, Array] | None = None
    problem: str = ""


async def probe(file: Path, draft: Draft) -> Probed:
    """Send one request of the job in ``file``, and complete the draft by its answer.

    Raises:
        ConfigError: the job cannot be used, for instance because variables of the environment are not set.
    """
    own_paths = {"answers", "outputs", "preset"} & draft.tables["codec"].keys()
    learns = draft.tables["codec"].get("name") == "json" and not own_paths
    settings = [f"chunks.rows={_PROBE_ROWS}", "retry.max_attempts=1"]
    # Answers of an unknown form are refused, and splitting the request would not help.
    job = load_job(file, [*settings, "limits.max_requests=1"] if learns else settings)
    report = await check_job(job, show=True)
    exchange = report.probe.exchange
    if not learns or exchange is None or exchange.response is None or not 200 <= exchange.response.status < 300:
        return Probed(report=report, answers=report.probe.result.outputs if report.probe.result.ok.any() else None)
    one_row = job.codec.max_rows == 1
    try:
        problem = _learn_paths(draft, exchange.response.json(), len(report.probe.result.ok), one_row=one_row)
        if problem:
            return Probed(report=report, problem=problem)
        n_rows = 1 if one_row else len(report.probe.result.ok)
        decoded = codec_by_name(**draft.tables["codec"]).decode(exchange.response, n_rows)
    except (InvalidResponse, ConfigError) as error:
        return Probed(report=report, problem=str(error))
    values = decoded.values if isinstance(decoded, DecodedResponse) else decoded
    return Probed(report=report, answers={"": values} if isinstance(values, np.ndarray) else values)


def _learn_paths(draft: Draft, document: Any, n_rows: int, *, one_row: bool) -> str:
    paths = find_answers(document, n_rows, one_row=one_row)
    if paths is None:
        return f"the answer holds no list of {n_rows} answers to {n_rows} rows: set codec.answers to its path"
    if paths.answers is not None:
        draft.set("codec", "answers", paths.answers, "the list of answers in a response")
    if paths.outputs:
        outputs: dict[str, Any] = {
            name: {"path": path, "type": "json"} if name in paths.json else path for name, path in paths.outputs.items()
        }
        draft.set("codec", "outputs", outputs, "the values to keep, by their paths inside one answer")
    return ""


def output_suffix(answers: Mapping[str, Array]) -> str:
    """Return the suffix of a file that holds these answers."""
    return ".npy" if all(array.dtype.kind in "biuf" for array in answers.values()) else ".jsonl"


def require_new(file: Path, *, force: bool) -> None:
    """Raise `ConfigError` if the job file exists, unless ``force``."""
    if file.exists() and not force:
        raise ConfigError(f"{file} exists already: give another name, or --force to replace it")
