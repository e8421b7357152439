"""Which URLs in rows are fetched, passed on or refused. No request is sent."""

from __future__ import annotations

import pytest

from fanout.errors import InputError
from fanout.io.readers.fetching import Unfetched, UrlFetcher

HOSTS = ["cdn.example.com", "*.images.example.org", "10.0.0.7:8080", "[::1]:9000", "intranet"]


def allows(url: str, hosts: list[str] = HOSTS) -> bool:
    return UrlFetcher(hosts, 1.0, 1000).allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.com/1.png",
        "HTTPS://CDN.Example.com:443/1.png?a=b",
        "http://cdn.example.com./1.png",
        "https://a.images.example.org/1.png",
        "https://a.b.images.example.org/1.png",
        "http://10.0.0.7:8080/1.png",
        "http://[::1]:9000/1.png",
        "http://intranet/1.png",
    ],
)
def test_a_named_host_is_fetched_from(url):
    assert allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.com/1.png",
        "https://cdn.example.com:8443/1.png",
        "https://cdn.example.com.evil.org/1.png",
        "https://images.example.org/1.png",
        "https://notimages.example.org/1.png",
        "https://8.8.8.8/1.png",
        "gs://bucket/1.png",
        "s3://bucket/1.png",
        "data:image/png;base64,AAAA",
        "https://münchen.example.com/1.png",
        "https://a_bucket.example.com/1.png",
        "https://[2606:4700::1111]/1.png",
    ],
)
def test_another_public_host_is_passed_on(url):
    assert not allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.7/1.png",
        "http://10.0.0.8:8080/1.png",
        "http://intranet:81/1.png",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://[fe80::1%25eth0]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://box.local/",
        "http://localhost.localdomain/",
        "http://wiki.corp/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://169\u3002254.169\u3002254/",
        "http://127.0.0.1\u200b/",
        "http://127.0.0.1\u3002/",
        "http://metadata.google.\u24d8nternal/",
        "http://\u00a0127.0.0.1/",
        "http://127%2e0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[::ffff:0:127.0.0.1]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://[::zz]/",
        "http:///1.png",
        "http://h:99999/",
        "gopher://example.com/",
    ],
)
def test_an_internal_host_and_what_is_no_web_url_are_refused(url):
    with pytest.raises(Unfetched):
        allows(url)


def test_a_pattern_names_no_internal_host():
    with pytest.raises(Unfetched):
        allows("http://metadata.google.internal/", ["*.google.internal"])


@pytest.mark.parametrize("host", ["*", "https://h", "h/path", "", "*.*", "h:port"])
def test_what_is_no_host_is_an_error_with_its_key(host):
    with pytest.raises(InputError, match="is not a host") as error:
        UrlFetcher([host], 1.0, 1000)
    assert error.value.key == "input.fetch_hosts"
