"""Settings, codecs and errors travel to other processes; secrets do not."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fanout
from fanout import errors
from fanout._variables import literal, resolved
from fanout.auth import Auth
from fanout.presets import load_preset, preset_names
from fanout.types import Chunk, Response

ROWS = np.arange(6.0).reshape(3, 2)
RESULT = fanout.Result(
    outputs={"": np.array([1.0, np.nan, np.nan])},
    ok=np.array([True, False, False]),
    failures=(fanout.Failure(start=1, stop=2, reason="too long", status=400, attempts=1, endpoint="http://h"),),
    pending=(Chunk(2, 3),),
    stats=fanout.Statistics(rows=3, ok=1, failed=1),
)
CODECS = [
    ("json", {}, ROWS),
    ("json", {"request": {"m": "x", "t": "{{rows}}"}, "answers": "r[*].y", "usage": {"total_tokens": "u.t"}}, ROWS),
    ("json", {"raw": "{{row}}", "status_rules": [{"path": "a", "then": "fail"}]}, [b"abc"]),
    ("json", {"form": {"file": "{{row}}"}}, [b"abc"]),
    ("json", {"request": {"t": "{{row}}"}, "poll": {"url": "u", "until": "done"}}, ["a"]),
    ("v1", {"dtype": "float32", "shape": [10], "signature_name": "s"}, ROWS),
    ("oip", {"binary": False, "input": "x"}, ROWS),
    ("openai-embeddings", {"model": "m"}, ["a", "b"]),
    ("openai-chat", {"model": "m", "prompt": "{{row}}", "schema": {"label": {"type": "str"}}}, ["a"]),
]
MODEL = b"""{"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}]}"""


def travelled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize(
    "settings",
    [
        fanout.Limits(rows_per_second=3, burst=1, concurrency="auto"),
        fanout.RetryPolicy(max_attempts=2),
        fanout.Timeouts(run=3),
        fanout.Hedge(share=0.1),
        fanout.Prices(per_row=1),
        fanout.Cache(path="answers.sqlite"),
        fanout.Endpoint(url="http://h/x?api-version=1", headers={"anthropic-version": "1"}, proxy="http://p:1"),
        fanout.Endpoint(urls=["https://me:${PW}@h/x", "https://h/y?key=${KEY}"], headers={"x-api-key": "a-${KEY}"}),
        fanout.BearerAuth(token="${KEY}"),
        fanout.BasicAuth(username="me", password="${PW}"),
        fanout.ApiKeyAuth(token="${KEY}", header="api-key"),
        fanout.OAuth2Auth(token_url="https://h/t", client_id="me", client_secret="${SECRET}"),
        fanout.SigV4Auth(service="bedrock"),
        fanout.GoogleAuth(),
        fanout.AzureAuth(),
        fanout.CommandAuth(command=["gcloud", "auth", "print-access-token"]),
        fanout.TensorSpec(dtype=np.dtype("float32"), shape=(3,)),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_travel(settings):
    assert travelled(settings) == settings


@pytest.mark.parametrize(("name", "options", "rows"), CODECS)
def test_codecs_travel(name, options, rows):
    codec = fanout.codec(name, **options)
    for other in (travelled(codec), travelled(travelled(codec)), copy.copy(codec), copy.deepcopy(codec)):
        assert other.encode(rows) == codec.encode(rows)
        assert (other.options, other.spec, other.columns) == (codec.options, codec.spec, codec.columns)


def test_a_codec_travels_with_the_metadata_of_its_model():
    codec = fanout.codec("oip").with_metadata([Response(status=200, headers={}, body=MODEL)])
    for other in (travelled(codec), travelled(travelled(codec)), travelled(copy.copy(codec))):
        assert other.describe() == codec.describe()
        assert other.encode(ROWS) == codec.encode(ROWS)


def test_the_file_of_a_schema_travels_as_its_content(tmp_path):
    file = tmp_path / "answer.json"
    file.write_text('{"properties": {"label": {"type": "string"}, "score": {"type": ["number", "null"]}}}')
    codec = fanout.codec("openai-chat", model="m", schema=str(file))
    pickled = pickle.dumps(codec)
    file.unlink()
    other = pickle.loads(pickled)
    assert other.encode(["a"]) == codec.encode(["a"])
    assert (other.options, other.spec) == (codec.options, codec.spec)


@pytest.mark.parametrize("name", preset_names())
def test_presets_travel(name):
    parameters = load_preset(name).parameters.values()
    values: dict[str, Any] = {"object": {"text": "{{row}}"}, "integer": 1, "array": ["a"]}
    options = {
        one.name: one.choices[0] if one.choices else values.get(one.type, "m") for one in parameters if one.required
    }
    preset = fanout.preset(name, **options)
    other = travelled(preset)
    assert repr(other) == repr(preset)
    assert other.codec.options == preset.codec.options
    assert (other.headers, other.limits) == (preset.headers, preset.limits)


def one_of(kind):
    if kind is fanout.RowsFailed:
        return kind("1 of 3 rows failed", result=RESULT)
    if kind in (fanout.RunStopped, fanout.Interrupted):
        return kind("stall", kind="stall", result=RESULT)
    if kind is fanout.EncodeError:
        return kind("row 3 is empty", rows=[3], every_row=True)
    if kind is fanout.InvalidResponse:
        return kind("row 3 holds null", error_kind="nonfinite", rows=[3], usage={"tokens": 3})
    return kind("it cannot be", key="limits") if issubclass(kind, fanout.ConfigError) else kind("it broke")


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, BaseException) and not name.startswith("_")
    ],
)
@pytest.mark.parametrize("copied", [travelled, copy.copy])
def test_errors_travel_with_their_results(kind, copied):
    error = one_of(kind)
    error.add_note("on worker 3")
    other = copied(error)
    assert type(other) is kind
    assert str(other) == str(error)
    assert vars(other).keys() == vars(error).keys()
    assert other.__notes__ == ["on worker 3"]
    if hasattr(error, "result"):
        assert other.result.ok.tolist() == [True, False, False]
        assert other.result.failures == RESULT.failures
        assert other.result.pending == RESULT.pending
        assert other.result.values[0] == 1.0
    if isinstance(error, fanout.EncodeError):
        assert (other.rows, other.every_row, other.reason) == ((3,), True, "row 3 is empty")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (fanout.BearerAuth(token="hunter22"), "auth.token"),
        (fanout.ApiKeyAuth(token="hunter22"), "auth.token"),
        (fanout.BasicAuth(username="${ME}", password="hunter22"), "auth.password"),
        (fanout.BasicAuth(username="hunter22"), "auth.username"),
        (fanout.OAuth2Auth(token_url="https://h/t", client_id="me", client_secret="hunter22"), "auth.client_secret"),
        (fanout.Endpoint(url="https://me:hunter22@h/x"), "url"),
        (fanout.Endpoint(url="https://hunter22@h/x"), "url"),
        (fanout.Endpoint(urls=["https://h/x", "https://h/x?api-key=hunter22"]), "urls[1]"),
        (fanout.Endpoint(url="https://h/x", proxy="http://me:hunter22@p"), "proxy"),
        (fanout.Endpoint(url="https://h/x", headers={"Authorization": "hunter22"}), "headers.Authorization"),
        (fanout.Endpoint(url="https://h/x", headers={"x-goog-api-key": "hunter22"}), "headers.x-goog-api-key"),
        (fanout.Endpoint(url="https://h/x", headers={"X-Forward": "Bearer hunter22"}), "headers.X-Forward"),
        (fanout.Endpoint(url="https://h/x", headers={"X-Forward": "Api-Key hunter22"}), "headers.X-Forward"),
        (fanout.Endpoint(url="https://h/x", headers={"x-api-key": "$${hunter22}"}), "headers.x-api-key"),
    ],
)
def test_a_literal_credential_does_not_travel(settings, key):
    with pytest.raises(fanout.ConfigError, match=r"\$\{API_KEY\}") as refused:
        pickle.dumps(settings)
    assert refused.value.key == key
    assert "hunter22" not in str(refused.value)


def test_copies_within_a_process_keep_credentials():
    endpoint = fanout.Endpoint(url="https://h/x", headers={"Authorization": "Bearer hunter22"})
    assert copy.copy(endpoint) == copy.deepcopy(endpoint) == endpoint


@dataclass(frozen=True)
class OwnAuth(Auth):
    password: str = field(repr=False)

    async def credentials(self):
        return fanout.Credentials()


def test_an_auth_of_the_users_own_follows_the_same_rules():
    assert travelled(OwnAuth("${PW}")) == OwnAuth("${PW}")
    with pytest.raises(fanout.ConfigError, match=r"auth\.password is a credential"):
        pickle.dumps(OwnAuth("hunter22"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: fanout.Credentials(headers={"a": "b"}), "send the Auth"),
        (lambda: fanout.RateLimiter(fanout.Limits(rows_per_second=1)), "shared"),
        (lambda: fanout.Client("http://h/x", codec="v1"), "pickle its options"),
    ],
)
def test_objects_of_one_process_say_what_to_send_in_their_place(value, words):
    with pytest.raises(fanout.FanoutError, match=words):
        pickle.dumps(value())


async def test_the_client_resolves_variables(monkeypatch):
    monkeypatch.setenv("KEY", "s3cret-${KEY}")
    sent = []

    class Endpoint:
        async def send(self, request):
            sent.append(request.headers)
            return Response(status=200, headers={}, body=b'{"predictions": [1, 2, 3]}')

    endpoint = travelled(fanout.Endpoint(url="http://h/x", headers={"x-api-key": "${KEY}", "plain": "$${KEY}"}))
    auth, more = travelled(fanout.BearerAuth(token="t-${KEY}")), {"more": "${UNSET:-else}"}
    async with fanout.Client(endpoint, codec="v1", auth=auth, headers=more, transport=Endpoint()) as client:
        await client.map(ROWS)
    (headers,) = sent
    assert headers["x-api-key"] == "s3cret-${KEY}"
    assert headers["plain"] == "${KEY}"
    assert headers["Authorization"] == "Bearer t-s3cret-${KEY}"
    assert headers["more"] == "else"


def test_unset_variables_are_one_clear_error(monkeypatch):
    monkeypatch.delenv("KEY", raising=False)
    auth = travelled(fanout.BasicAuth(username="${ME_UNSET}", password="${KEY}"))
    words = "auth: the environment variable ME_UNSET is not set; the environment variable KEY is not set"
    with pytest.raises(fanout.ConfigError, match=f"^{words}$"):
        fanout.Client("http://h/x", codec="v1", auth=auth)


@pytest.mark.parametrize("text", ["plain", "${KEY}", "$${KEY}", "a$$${b}", "$", "${", "$$${{"])
def test_literal_settings_resolve_to_themselves(text):
    settings = fanout.Endpoint(url="http://h/x", headers={"a": text})
    assert resolved(literal(settings), "endpoint") == settings


OWN = """
from dataclasses import dataclass
import numpy as np, orjson, fanout
{imports}

@dataclass
class Part:
    x: int = 3

def check(answer):
    raise ValueError("checked in the file")

class Own(fanout.Codec):
    def __init__(self, *, factor):
        super().__init__()
        self.factor = factor

    def encode(self, rows):
        return fanout.Payload(body=orjson.dumps([self.factor, Part().x]))

    def decode(self, response, n_rows):
        return np.zeros(n_rows)
"""

ELSEWHERE = """
import pickle, sys
import fanout
try:
    codec = pickle.loads(sys.stdin.buffer.read())
except fanout.ConfigError as error:
    print(error)
else:
    print(codec.encode([1, 2]).body.decode(), len(pickle.dumps(codec)) > 100)
"""


def elsewhere(codec, folder):
    """The output of a process in another folder that unpickles the codec."""
    command = [sys.executable, "-c", ELSEWHERE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, input=pickle.dumps(codec), capture_output=True, cwd=folder, env=environment, check=False
    )
    assert not done.returncode, done.stderr.decode()
    return done.stdout.decode().strip()


def own_codec(folder, imports=""):
    from fanout.job.custom_codec import custom_codec

    (folder / "my_codecs.py").write_text(OWN.replace("{imports}", imports))
    return custom_codec("my_codecs.py:Own", {"factor": 7}, folder)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    folder = tmp_path / "job"
    folder.mkdir()
    yield folder
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_the_file_of_a_custom_codec_travels_with_it(own_folder, tmp_path):
    codec = own_codec(own_folder)
    assert type(travelled(codec)) is type(codec)
    assert elsewhere(codec, tmp_path) == "[7,3] True"


def test_a_function_of_a_file_travels_with_it(own_folder):
    from fanout.job.custom_codec import custom_function

    own_codec(own_folder)
    check = custom_function("my_codecs.py:check", own_folder, "validate")
    codec = fanout.codec("openai-chat", model="m", schema={"label": "str"}, validate=check)
    pickled = pickle.dumps(codec)
    for name in [name for name in sys.modules if name.startswith("fanout_custom_codec.")]:
        del sys.modules[name]
    other = pickle.loads(pickled)
    body = b'{"choices": [{"finish_reason": "stop", "message": {"content": "{\\"label\\": \\"a\\"}"}}]}'
    with pytest.raises(fanout.InvalidResponse, match="checked in the file"):
        other.decode(Response(status=200, headers={}, body=body), 1)


def test_an_import_that_is_missing_elsewhere_says_how_to_ship_it(own_folder, tmp_path, monkeypatch):
    (own_folder / "helpers.py").write_text("")
    codec = own_codec(own_folder, imports="import helpers")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(own_folder)])
    words = elsewhere(codec, tmp_path)
    assert words.startswith("my_codecs.py, which came with the job, imports 'helpers', which is not installed here")
    assert "upload_file" in words


def test_a_codec_of_a_module_that_is_missing_elsewhere_says_how_to_ship_it(own_folder, tmp_path, monkeypatch):
    from fanout.job.custom_codec import custom_codec

    (own_folder / "my_module.py").write_text(OWN.replace("{imports}", ""))
    codec = custom_codec("my_module:Own", {"factor": 7}, own_folder)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(own_folder)])
    assert "Own is in the module 'my_module', which cannot be imported here" in elsewhere(codec, tmp_path)
