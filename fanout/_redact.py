"""Redaction: secrets of a client or job are replaced before a text is shown, stored or recorded."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import OrderedDict
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

from fanout._escape import escaped, escaped_lines
from fanout._headers import SCHEMES
from fanout._lazy import pattern
from fanout._url import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

STARS = "***"

# Minimum length of a secret. Shorter values would match everywhere.
_SHORTEST = 6

# Maximum number of temporary secrets: tokens are renewed for the life of a client.
_REMEMBERED = 500

# Texts whose secrets are remembered, and the most bytes of one.
_REMEMBERED_TEXTS, _LONGEST_REMEMBERED = 64, 4096

_STARS = STARS.encode()

_CUTS_LOOKED_AT = 8
_CUT = b"..."
_URL_SAFE = "/:@!$&'()*+,;="
_GO = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_URL_BASE64 = str.maketrans("+/", "-_")
_SHORTEST_ENCODED = 12
# The signature in a URL that a server gives away for a while, such as that of a job or of a file.
_SIGNATURE = pattern(
    rb"""(?:[?&;]|\\u0026)(?:[a-z0-9-]{1,24}-)?(?:sig|signature|token|access_token)=([^&;\s"'<>\\)\]}]{6,})"""
)
_MEDIA_TYPE = pattern(r"(?:application|audio|image|multipart|text|video)/[\w.+*-]+|\*/\*")


_Forms: TypeAlias = dict[bytes, None]


class Redactor:
    """Replaces secrets by ``***``, in any case and as servers repeat them, and escapes control characters.

    The signatures of signed URLs are secrets, too.

    Args:
        secrets: values to redact; those shorter than 6 characters are ignored.
        prefixes: beginning of a URL that ends with a secret -> its redacted form; for secrets of any length.
        exempt: texts that are shown even if they contain a secret, such as the path of the output.
    """

    def __init__(
        self, secrets: Iterable[str] = (), *, prefixes: Mapping[str, str] | None = None, exempt: Iterable[str] = ()
    ) -> None:
        # Each with its forms, which are only made once something is redacted.
        self._values: OrderedDict[str, _Forms | None] = OrderedDict()
        self._temporary: OrderedDict[str, _Forms | None] = OrderedDict()
        self._prefixes = [
            (_lowered(shape), shown.encode()) for prefix, shown in (prefixes or {}).items() for shape in _cases(prefix)
        ]
        self._exempt = [_lowered(text) for text in exempt if text]
        self._searched: dict[tuple[bytes, bool], list[tuple[int, int, bytes]]] = {}
        self.add(secrets)

    def add(self, secrets: Iterable[str], *, temporary: bool = False) -> None:
        """Add secrets. Of ``temporary`` ones, such as tokens that are renewed, the oldest are forgotten."""
        known = self._temporary if temporary else self._values
        for value in secrets:
            if len(value) >= _SHORTEST:
                known.setdefault(value, None)
                known.move_to_end(value)  # a value that comes again is the newest
        while temporary and len(known) > _REMEMBERED:
            known.popitem(last=False)
        # Last, and not emptied: a search in another thread that has not seen these secrets stores in the old one.
        self._searched = {}

    def text(self, text: str) -> str:
        """Redact ``text``, and escape control characters and line breaks."""
        return escaped(self.hide(text))

    def lines(self, text: str) -> str:
        """Redact ``text``, and escape control characters except line breaks."""
        return escaped_lines(self.hide(text))

    def url(self, url: str) -> str:
        """Redact a URL, including its userinfo and query values."""
        return escaped(redact_url(self.hide(url)))

    def hide(self, text: str) -> str:
        """Replace each secret by ``***``, also one that is cut off before ``...``."""
        data = text.encode("utf-8", "surrogatepass")
        spans = self._spans(data, cuts=True)
        return _replaced(data, spans).decode("utf-8", "surrogatepass") if spans else text

    def hide_in_body(self, body: bytes) -> bytes:
        """Replace secrets in the body of an error response."""
        return _replaced(body, self._spans(body, cuts=True))

    def raw(self, body: bytes) -> bytes:
        """Replace each secret by as many stars as it has bytes, so that the length stays."""
        spans = self._spans(body, cuts=False)
        if not spans:
            return body
        # A recording is replayed byte by byte, so offsets and lengths must stay.
        redacted = bytearray(body)
        for start, stop, _ in spans:
            redacted[start:stop] = b"*" * (stop - start)
        return bytes(redacted)

    def value(self, value: Any) -> Any:
        """Replace secrets in all texts of a JSON value, names included."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(inner) for inner in value]
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("secrets do not travel to other processes; each of them makes a Redactor of its own")

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._values | self._temporary)} secrets>"

    def _spans(self, data: bytes, *, cuts: bool) -> list[tuple[int, int, bytes]]:
        """Return start, end and replacement of each secret, in order and without overlaps."""
        # An endpoint in trouble repeats a few short texts, and to search one costs a tenth of what a failure does.
        searched = self._searched
        if (known := searched.get((data, cuts))) is not None:
            return known
        spans = self._search(data, cuts=cuts)
        if len(data) <= _LONGEST_REMEMBERED:
            if len(searched) >= _REMEMBERED_TEXTS:
                searched.clear()
            searched[data, cuts] = spans
        return spans

    def _search(self, data: bytes, *, cuts: bool) -> list[tuple[int, int, bytes]]:
        low = data.lower()  # ASCII only, so that offsets stay; the forms list every case of other letters
        spans = [
            (start, start + len(form), stars)
            for form, stars in self._forms()
            if form in low
            for start in _places(form, low)
        ]
        spans += [(*match.span(1), _STARS) for match in _SIGNATURE.finditer(low)]
        if cuts and _CUT in low:
            spans += self._cut_off(low)
        if spans and self._exempt:
            shown = [(start, start + len(text)) for text in self._exempt for start in _places(text, low)]
            spans = [span for span in spans if not any(start <= span[0] and span[1] <= stop for start, stop in shown)]
        return _merged(spans)

    def _cut_off(self, low: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield the spans of secrets that are cut off by an ellipsis."""
        ends = list(_places(_CUT, low))
        for end in dict.fromkeys(ends[:_CUTS_LOOKED_AT] + ends[-_CUTS_LOOKED_AT:]):
            for form, stars in self._forms():
                tail_start = max(0, end - len(form) + 1)
                for start in _places(form[:_SHORTEST], low[tail_start:end]):
                    if form.startswith(low[tail_start + start : end]):
                        yield tail_start + start, end, stars
                        break

    def _forms(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each form of the secrets in lower case, with its replacement."""
        yield from self._prefixes
        for known in (self._values, self._temporary):
            # A list, because texts are redacted on helper threads, too, while the event loop adds secrets.
            for value, forms in list(known.items()):
                written = forms or dict.fromkeys(map(_lowered, _written(value)))
                if value in known:  # not forgotten meanwhile
                    known[value] = written
                for form in written:
                    yield form, _STARS


def secrets_of(url: str, headers: Mapping[str, str]) -> list[str]:
    """Return the parts of a URL and of header values that may be secrets."""
    parts = urlsplit(url)
    values = [parts.username or "", parts.password or ""]
    values += [pair.partition("=")[2] or pair for pair in parts.query.split("&")]
    # Servers decode the query, and quote the decoded form.
    values += [unquote_plus(value) for value in values]
    if parts.username is not None:  # as in the Authorization header that is made of them
        values.append(b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode())
    for value in headers.values():
        values += _of_header(value)
    return [value for value in dict.fromkeys(values) if len(value) >= _SHORTEST]


def _of_header(value: str) -> Iterator[str]:
    """Yield a header's value and its parts: a token without its scheme, a cookie, a parameter, a password."""
    if _MEDIA_TYPE.fullmatch(value.strip()):
        return
    yield value
    scheme, _, rest = value.strip().partition(" ")
    yield rest.strip()
    if scheme.lower() == "basic":
        yield from _of_basic(rest.strip())
    for part in (*re.split(r"[;,]", value), *re.split(r"[;,\s]+", value)):
        name, equals, inner = part.strip().partition("=")
        for word in (part.strip(), inner, inner.strip('"'), unquote(inner)):
            if word.lower() not in SCHEMES and not _MEDIA_TYPE.fullmatch(word):
                yield word
        if equals and not inner.strip("="):  # a padded token: servers may omit the "="
            yield name


def _of_basic(credentials: str) -> Iterator[str]:
    try:
        decoded = b64decode(credentials, validate=True).decode("utf-8", "replace")
    except (Base64Error, ValueError):
        return
    yield decoded
    user, _, password = decoded.partition(":")
    yield from (user, password)


def _written(value: str) -> Iterator[str]:
    """Yield the forms in which a server may repeat ``value``: plain, in JSON, URLs, HTML, Python, base64 and digits."""
    as_json, plain_json = json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]
    forms = [value, value.strip(), " ".join(value.split()), as_json, plain_json, as_json.replace("/", "\\/")]
    # .NET, and Gson in Java.
    forms += [re.sub(kinds, lambda match: f"\\u{ord(match[0]):04x}", as_json) for kinds in ("[&<>'+`]", "[&<>'=]")]
    # Clients and proxies disagree about the characters to quote.
    forms += [quote(value, safe=""), quote(value, safe=_URL_SAFE), quote_plus(value), unquote(value)]
    forms += [quote(quote(value, safe=""), safe="")]
    # Go, and the templates of Mustache.
    forms += [re.sub("[&<>\"'+]", lambda match: _GO.get(match[0], f"&#{ord(match[0])};"), value)]
    forms += [re.sub("[/`=]", lambda match: f"&#x{ord(match[0]):X};", escape(value))]
    forms += [escape(value), escape(value, quote=False), repr(value)[1:-1], ascii(value)[1:-1], escaped(value)]
    for form in dict.fromkeys(forms):
        if len(form) >= _SHORTEST:
            yield from _cases(form)
    yield from _encoded(value.encode("utf-8", "surrogatepass"))


def _encoded(value: bytes) -> Iterator[str]:
    """Yield the forms of ``value`` in hexadecimal digits and in base64, also as a part of more bytes."""
    forms = [value.hex()]
    for before in range(3):
        text = b64encode(bytes(before) + value).decode().rstrip("=")
        # Characters that also depend on the bytes before and after are left out.
        within = text[before and before + 1 : len(text) - bool((before + len(value)) % 3)]
        forms += [within, within.translate(_URL_BASE64)]
    # A short one would be found by chance in vectors that are sent in base64.
    yield from (form for form in dict.fromkeys(forms) if len(form) >= _SHORTEST_ENCODED)


def _cases(text: str) -> tuple[str, ...]:
    return (text,) if text.isascii() else (text, text.lower(), text.upper(), text.casefold(), text.title())


def _lowered(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass").lower()


def _places(part: bytes, text: bytes) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + len(part))


def _replaced(data: bytes, spans: list[tuple[int, int, bytes]]) -> bytes:
    parts, end = [], 0
    for start, stop, stars in spans:
        parts += [data[end:start], stars]
        end = stop
    return b"".join([*parts, data[end:]])


def _merged(spans: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    merged: list[tuple[int, int, bytes]] = []
    for start, stop, stars in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged and start < merged[-1][1]:
            before, end, shown = merged[-1]
            if stop > end:  # an overlap: no part of either may be shown
                merged[-1] = (before, stop, _STARS if shown == _STARS else shown + stars)
        else:
            merged.append((start, stop, stars))
    return merged
