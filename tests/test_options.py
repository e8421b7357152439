"""Options are checked by name at every public callable, and type checkers know the same names."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, create_autospec

import numpy as np
import pytest

import fanout
from fanout import Client, ConfigError, SyncClient, UnknownOptionError, testing
from fanout.client import ClientOptions
from fanout.client.options import chunks_of
from fanout.codecs import OpenAIChat
from fanout.settings import Chunks
from tests.support import Plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URL = "http://127.0.0.1:9/v1/models/m:predict"
X = np.zeros((3, 2))

MISSPELT: dict[str, tuple[Callable[[], Any], str]] = {
    "Client": (lambda: Client(URL, codec="v1", chunk_row=3), "chunk_rows"),
    "SyncClient": (lambda: SyncClient(URL, codec="v1", chunkrows=3), "chunk_rows"),
    "function": (lambda: fanout.map(X, URL, codec="v1", on_eror="keep"), "on_error"),
    "function with an option of the client": (lambda: fanout.map(X, URL, codec="v1", limit=3), "limits"),
    "codec by name": (lambda: fanout.codec("oip", binry=True), "binary"),
    "codec class": (lambda: OpenAIChat(modell="m"), "model"),  # type: ignore[call-arg]
    "codec of one's own": (lambda: Plain(dtyp="float32"), "dtype"),  # type: ignore[call-arg]
    "Limits": (lambda: fanout.Limits(concurency=3), "concurrency"),  # type: ignore[call-arg]
    "RetryPolicy": (lambda: fanout.RetryPolicy(max_attempt=3), "max_attempts"),  # type: ignore[call-arg]
    "Hedge": (lambda: fanout.Hedge(shares=0.1), "share"),  # type: ignore[call-arg]
    "Timeouts": (lambda: fanout.Timeouts(attemp=3), "attempt"),  # type: ignore[call-arg]
    "Endpoint": (lambda: fanout.Endpoint(url=URL, header={}), "headers"),  # type: ignore[call-arg]
    "RateLimiter": (lambda: fanout.RateLimiter(limit=fanout.Limits()), "limits"),  # type: ignore[call-arg]
    "open_source": (lambda: fanout.open_source("x.npz", colum="x"), "column"),  # type: ignore[call-arg]
    "open_sink": (lambda: fanout.open_sink(pth="y.npy"), "path"),  # type: ignore[call-arg]
}  # type: ignore[call-arg, call-overload]


@pytest.mark.parametrize(("call", "meant"), MISSPELT.values(), ids=MISSPELT)
def test_a_misspelt_option_is_named_with_the_nearest(call: Callable[[], Any], meant: str) -> None:
    with pytest.raises(
        UnknownOptionError, match=rf"has no option '\w+' \(did you mean '{meant}'\?\); its options are"
    ) as e:
        call()
    assert isinstance(e.value, ConfigError)
    assert isinstance(e.value, TypeError)


HAS_OPTIONS = [
    fanout.Client, fanout.SyncClient, fanout.Journal, fanout.RateLimiter, fanout.Endpoint, fanout.Hedge, fanout.Limits,
    fanout.RetryPolicy, fanout.Timeouts, fanout.map, fanout.open_sink, fanout.open_source, fanout.ApiKeyAuth,
    fanout.AzureAuth, fanout.BasicAuth, fanout.BearerAuth, fanout.CommandAuth, fanout.GoogleAuth, fanout.OAuth2Auth,
    fanout.SigV4Auth, testing.Background, testing.FaultServer,
    testing.MockEndpoint, testing.MockTransport, testing.NoNetwork, testing.Recorder,
    testing.Replayer, testing.Scripted, testing.assert_attempts, testing.assert_headers, testing.assert_in_flight,
    testing.assert_rate, testing.attempts_per_chunk, testing.most_in_window,
]  # fmt: skip
METHODS = [
    getattr(owner, name)
    for owner in (fanout.Client, fanout.SyncClient)
    for name, method in vars(owner).items()
    if not name.startswith("_") and len(inspect.signature(method).parameters) > 1
]


@pytest.mark.parametrize("function", [*HAS_OPTIONS, *METHODS], ids=lambda function: function.__qualname__)
async def test_every_public_callable_refuses_an_unknown_option_by_name(function: Callable[..., Any]) -> None:
    # Other arguments are missing on purpose: names are checked before values. Two functions take any name and pass
    # it on, so that they need their own arguments first.
    own = {fanout.map: {"rows": X, "endpoint": URL, "codec": "v1"}, SyncClient: {"endpoint": URL, "codec": "v1"}}

    async def call() -> None:
        outcome = function(**own.get(function, {}), unknown=1)
        if inspect.isawaitable(outcome):
            await outcome

    with pytest.raises(UnknownOptionError, match="has no option 'unknown'") as raised:
        await call()
    assert raised.value.key == "unknown"


@pytest.mark.parametrize("name", ["map", "run", "predict", "preview", "survey"])
def test_checked_coroutine_functions_are_known_as_such(name: str) -> None:
    assert isinstance(getattr(create_autospec(Client), name), AsyncMock)


async def test_a_misspelt_option_of_a_call_is_named_too() -> None:
    async with Client(URL, codec="v1") as client:
        with pytest.raises(UnknownOptionError, match="did you mean 'on_error'"):
            await client.map(X, on_eror="keep")  # type: ignore[call-overload]
        with pytest.raises(UnknownOptionError, match="did you mean 'control'"):
            client.stream(X, controll=None)  # type: ignore[call-arg]
        with pytest.raises(UnknownOptionError, match="did you mean 'journal'"):
            await client.run(X, fanout.open_sink("y.npy"), jurnal="x")  # type: ignore[call-arg]
        with pytest.raises(UnknownOptionError, match="did you mean 'control'"):
            await client.preview(X, contrl=None)  # type: ignore[call-arg]


@pytest.mark.parametrize("sink", [7, None])
async def test_what_is_neither_a_sink_nor_a_path_is_refused_with_the_remedy(sink: Any) -> None:
    async with Client(URL, codec="v1") as client:
        with pytest.raises(ConfigError, match=r"sink must be what fanout\.open_sink\(path\) gives"):
            await client.run(X, sink)


def test_a_missing_argument_is_a_plain_type_error() -> None:
    with pytest.raises(TypeError, match="codec"):
        Client(URL)  # type: ignore[call-overload]


def test_client_options_have_the_names_and_types_of_the_client_s_signature() -> None:
    parameters = inspect.signature(Client.__init__).parameters
    taken = {name: parameter.annotation for name, parameter in parameters.items()}
    for name in ("self", "endpoint", "codec"):
        del taken[name]
    assert {name: hint.__forward_arg__ for name, hint in ClientOptions.__annotations__.items()} == taken


def test_the_client_s_docstring_describes_every_option_in_the_order_of_the_signature() -> None:
    arguments = inspect.getdoc(Client).partition("Args:\n")[2].partition("Raises:")[0]
    described = re.findall(r"^    (\w+): ", arguments, re.MULTILINE)
    assert described == [name for name in inspect.signature(Client.__init__).parameters if name != "self"]


def test_the_client_s_chunk_options_have_the_defaults_of_the_job_file_s_table() -> None:
    parameters = inspect.signature(Client.__init__).parameters
    assert (
        chunks_of(None, *(parameters[f"chunk_{field.name}"].default for field in dataclasses.fields(Chunks)))
        == Chunks()
    )


SNIPPET = """
import fanout
from fanout import Answers, Array, Client, Result, Rows, SyncClient

async def calls(rows: Rows, some: Client, one: Client[Array]) -> None:
    reveal_type(fanout.map(rows, "u", codec="oip"))
    reveal_type(fanout.map(rows, "u", codec="openai-chat"))
    reveal_type(fanout.map(rows, "u", codec="openai-embeddings"))
    reveal_type(await some.map(rows))
    reveal_type(await one.map(rows))
    reveal_type(await some.map(rows, on_error="keep"))
    with SyncClient("u", codec="openai-chat", chunk_rows=3) as client:
        reveal_type(client.map(rows))
    with SyncClient[Array]("u", codec="json") as typed:
        reveal_type(typed.map(rows))
"""

ARRAY = "numpy.ndarray[Any, numpy.dtype[Any]]"
TABLE = f"dict[str, {ARRAY}]"


@pytest.mark.slow
def test_type_checkers_infer_the_return_type_of_map(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    output, errors, code = api.run(["--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(file)])
    assert (errors, code) == ("", 0), output
    revealed = [line.partition("type is ")[2].strip('"') for line in output.splitlines() if "Revealed" in line]
    assert revealed == [
        f"{ARRAY} | {TABLE}", TABLE, ARRAY, f"{ARRAY} | {TABLE}", ARRAY, "fanout.results.Result", TABLE, ARRAY,
    ]  # fmt: skip
