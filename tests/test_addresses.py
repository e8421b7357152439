"""Addresses: a URL or header that cannot be used is refused with a remedy, and no credential is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout._url import redact_url
from fanout.addresses import Endpoint, Storage
from fanout.errors import ConfigError
from fanout.settings import Hedge, Limits, RetryPolicy, Timeouts

SETTINGS = [Limits, RetryPolicy, Hedge, Timeouts, Endpoint]


def test_a_cap_below_one_byte_is_refused():
    with pytest.raises(ConfigError, match="max_response_bytes must be at least 1, not 0"):
        Endpoint(url="http://h/x", max_response_bytes=0)


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://h:8443/v2/models/m/infer?key=1",
        "http://user:pw@h/",
        "http://[::1]:8000/x",
        "local://digits",
        "local://package.module:function",
    ],
)
def test_whole_urls_are_taken(url):
    assert Endpoint(url=url).url == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("host:8000/x", "for instance http://host:8000/x,"),
        ("host/x", "for instance http://host/x,"),
        ("//host/x", "for instance http://host/x,"),
        ("ftp://host/x", "for instance http://host/x,"),
        ("", "url is missing"),
        ("http://", "names no host"),
        ("http:///x", "names no host"),
        ("http://:8000/x", "names no host"),
        ("http://h:port/", "host or port cannot be read"),
        ("http://h:99999/", "host or port cannot be read"),
        ("http://[::1/", "is not a URL"),
        ("local://", "try local://digits"),
    ],
)
def test_an_incomplete_url_is_refused_with_a_remedy(url, message):
    with pytest.raises(ConfigError) as raised:
        Endpoint(url=url)
    assert message in str(raised.value)
    assert raised.value.key == "url"


@pytest.mark.parametrize(
    "url",
    [
        "user:s3cret@host/x",
        "//user:s3cret@host/x",
        "http:/user:s3cret@host/x",
        "http:user:s3cret@host/x",
        "http://user:s3cret/more@host/",
        "http://user:s3cret#more@host/",
        "http://user:s3cret?more@host/",
        "http://user:s3cret@ho\u2100st/",
        "ftp://user:s3cret@host/x?key=s3cret",
    ],
)
def test_a_refused_url_gives_no_part_of_its_password_away(url):
    with pytest.raises(ConfigError) as raised:
        Endpoint(url=url)
    assert "s3cret" not in str(raised.value)
    assert "s3cret" not in redact_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h:8000/v2/x", "http://h:8000/v2/x"),
        ("https://user:pw@h/x", "https://***@h/x"),
        ("https://user@h/x", "https://***@h/x"),
        ("https://u:p@w@h/x", "https://***@h/x"),
        ("https://h/x?key=abc&flag&b=", "https://h/x?key=***&***&b=***"),
        ("https://h/x?a=b=c", "https://h/x?a=***"),
        ("https://h/x?mail=me@there", "https://h/x?mail=***"),
        ("https://h/models/m@v2/infer", "https://h/models/m@v2/infer"),
        ("https://h/x#token", "https://h/x"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://[::1/x", "***"),
        ("local://digits", "local://digits"),
        ("local://package.module:function", "local://package.module:function"),
    ],
)
def test_a_url_is_shown_without_userinfo_and_query_values(url, shown):
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


@given(st.text(max_size=8), st.text("abc/?#[]:%&=@", max_size=8))
def test_no_character_in_a_password_uncovers_it(after, more):
    assert "s3cret" not in redact_url(f"https://user:s3cret{after}{more}@host/x")


def test_the_credentials_of_a_store_are_known_by_the_names_of_its_options():
    s3 = {"region": "eu-central-1", "aws_access_key_id": "name", "sse_customer_key_base64": "a2V5"}
    storage = Storage(s3=s3, az={"account_name": "team", "sas_token": "signature"})
    assert storage.secrets == ["name", "a2V5", "signature"]


def test_the_repr_of_an_endpoint_shows_no_secret():
    endpoint = Endpoint(url="https://user:s3cret@h/x?key=s3cret", headers={"Authorization": "Bearer s3cret"})
    assert repr(endpoint) == "Endpoint('https://***@h/x?key=***')"


@pytest.mark.parametrize(
    "headers", [{"X-Key": "s3cret\n"}, {"X-Key": "s3cret\r\nX: y"}, {"X-Key": "s3\0cret"}, {"X-Key\n": "s3cret"}]
)
def test_a_header_with_a_line_break_is_refused_without_showing_it(headers):
    with pytest.raises(ConfigError, match=r"header 'X-Key.*' holds a line break") as raised:
        Endpoint(url="http://h/x", headers=headers)
    assert raised.value.key == "headers"
    assert "s3" not in str(raised.value)


@pytest.mark.parametrize("value", [3, None, b"bytes"])
def test_a_header_that_is_no_text_is_refused(value):
    with pytest.raises(ConfigError, match=f"header 'X-Key' must be a text, not {type(value).__name__}"):
        Endpoint(url="http://h/x", headers={"X-Key": value})


FRAMING = ["Content-Length", "transfer-encoding", "CONNECTION", "Keep-Alive", "TE", "Trailer", "Expect", "Upgrade"]


@pytest.mark.parametrize("name", FRAMING)
def test_a_header_that_frames_the_message_is_refused_everywhere(name):
    for options, key in [
        ({"headers": {name: "1"}}, "headers"),
        ({"request_id_header": name}, "request_id_header"),
        ({"idempotency_header": name}, "idempotency_header"),
    ]:
        with pytest.raises(ConfigError, match=f"header '{name}' frames the message") as raised:
            Endpoint(url="http://h/x", **options)
        assert raised.value.key == key


@pytest.mark.parametrize("name", ["", "X Key", "X:Key", "X-Wörd", " X", "X\t", "X(1)", "X@Y", 'X"'])
def test_an_invalid_header_name_is_refused(name):
    with pytest.raises(ConfigError, match="is no valid name"):
        Endpoint(url="http://h/x", headers={name: "s3cret"})


@pytest.mark.parametrize("value", ["\ud800", "a\x00", "a\x7f", "\x1b[31m"])
def test_an_invalid_header_value_is_refused_without_showing_it(value):
    with pytest.raises(ConfigError, match="'X' holds a line break or another control character") as raised:
        Endpoint(url="http://h/x", headers={"X": "s3cret" + value})
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("name", ["Host", "X-Length", "Range", "Te-X", "!#$%&'*+-.^_`|~1a"])
def test_other_headers_are_taken(name):
    assert Endpoint(url="http://h/x", headers={name: "größe\t1"}).headers == {name: "größe\t1"}
