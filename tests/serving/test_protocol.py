"""Routes of the server, and the errors for all other paths."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

from fanout.serving.protocol import ServerRequest


def test_the_pure_handlers_come_without_aiohttp():
    """`fanout.testing` uses them with no server at all."""
    code = "import sys, fanout.serving.protocol, fanout.serving.models; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", ["/healthz", "/healthz/", "/healthz?a=/v2"])
def test_health(echo, path):
    """A trailing slash and a query do not matter."""
    assert echo.get(path) == {"status": "ok", "model": "echo"}


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models/a/b", "/v2/models/echo/infers/x"])
def test_an_unknown_path_is_a_404(echo, path):
    """404 with the path."""
    done = echo.send("GET", path)
    assert done.status == 404
    assert path in orjson.loads(done.body)["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/embeddings"), ("POST", "/healthz"), ("PUT", "/"), ("GET", "/v2/models/echo/infer")],
)
def test_another_method_is_not_allowed(echo, method, path):
    """405 with the method that is."""
    done = echo.send(method, path)
    assert done.status == 405
    assert f"not {method}" in orjson.loads(done.body)["error"]


def test_deep_nesting_is_refused_not_raised(echo):
    """`answer` never raises: a recursion error would take the connection down."""
    deep = b"[" * 990 + b"]" * 990
    body = b'{"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": ' + deep + b"}]}"
    assert echo.send("POST", "/v2/models/echo/infer", body).status == 400


def test_header_names_ignore_case():
    """Whatever mapping carries them."""
    request = ServerRequest(method="GET", path="/", headers={"X-Thing": "1"})
    assert request.header("x-thing") == "1"
    assert request.header("x-other") is None
