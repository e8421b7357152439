"""The signatures of signed URLs are redacted, although the redactor has never seen them."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from fanout._redact import Redactor

URLS = [
    "https://h/x?sv=2024&sig=Zm9v%2Fbar%3D&se=1",
    "https://h/x?X-Amz-Credential=A&X-Amz-Signature=0123456789abcdef",
    "https://h/x?X-Goog-Signature=0123456789abcdef#part",
    "https://h/x?alt=media&token=0123-4567-89ab",
    "https://h/x?access_token=0123456789",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "quoted",
    [
        lambda url: url,
        lambda url: f"no file at <{url}>, it says",
        lambda url: json.dumps({"get": url}),
        lambda url: json.dumps(url).replace("&", "\\u0026"),
        lambda url: url.replace("&", "&amp;"),
    ],
)
def test_the_signature_of_a_url_is_a_secret_and_the_rest_is_shown(quoted, url):
    text, redactor = quoted(url), Redactor()
    shown, raw = redactor.hide(text), redactor.raw(text.encode())
    assert "***" in shown
    for secret in ("Zm9v", "0123", "89ab"):
        assert secret not in shown
        assert secret.encode() not in raw
    assert len(raw) == len(text.encode())
    before, _, after = shown.partition("***")
    assert text.startswith(before)
    assert text.endswith(after)


@pytest.mark.parametrize("text", ["https://h/x?sig=1&v=2", "the token=0123456789", "?design=0123456"])
def test_other_texts_stay(text):
    assert Redactor().hide(text) == text
    assert Redactor().raw(text.encode()) == text.encode()


@pytest.mark.parametrize("temporary", [False, True])
def test_secrets_may_be_added_by_another_thread_while_a_text_is_redacted(temporary):
    """A scrape of Prometheus redacts the names of clients on its own thread, the client adds tokens on its loop's."""
    redactor = Redactor()

    class Slow(str):
        """A secret during whose preparation another one comes."""

        __slots__ = ()

        def strip(self, chars=None):
            redactor.add([f"{self}-again"], temporary=temporary)
            return super().strip(chars)

    redactor.add([Slow("first-secret"), Slow("second-secret")], temporary=temporary)
    text = "first-secret, second-secret, first-secret-again"
    assert redactor.text(text).startswith("***, ***, ***")
    assert redactor.text(text) == "***, ***, ***", "what was found before the new secret came is not repeated"


TOKEN = "sk-9x/AbC+dé'f=&77"


@pytest.mark.parametrize(
    "written",
    [
        base64.b64encode(TOKEN.encode()).decode(),
        *(base64.b64encode((before + TOKEN + "!").encode()).decode() for before in (":", "u:", "us:")),
        base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("="),
        TOKEN.encode().hex(),
        TOKEN.encode().hex().upper(),
        quote(quote(TOKEN, safe=""), safe=""),
        "sk-9x/AbC&#43;dé&#39;f=&amp;77",
        "sk-9x&#x2F;AbC+dé&#x27;f&#x3D;&amp;77",
        "sk-9x/AbC+d\\u00e9\\u0027f\\u003d\\u002677",
    ],
)
def test_a_secret_is_found_in_the_encodings_of_servers(written):
    redactor = Redactor([TOKEN])
    for text in (f'{{"error": "bad key {written} given"}}', written):
        shown = redactor.hide(text)
        assert "***" in shown
        # Characters of base64 that neighbours have a part in may stay.
        assert len(shown) <= len(text) - len(written) + 3 + 8
        assert redactor.raw(text.encode()).count(b"*") >= len(written.encode()) - 8


def test_a_secret_that_is_added_later_is_redacted_in_a_text_that_came_before() -> None:
    redactor = Redactor(["first-secret"])
    text = "first-secret and later-secret"
    assert redactor.text(text) == redactor.text(text) == "*** and later-secret"
    redactor.add(["later-secret"], temporary=True)
    assert redactor.text(text) == redactor.text(text) == "*** and ***"
    assert redactor.raw(text.encode()) == b"************ and ************"
