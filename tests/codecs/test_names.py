"""Codecs by name, the packaged ones and those of other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest

import fanout.codecs
from fanout.codecs import V1, Codec, Json, Oip, OpenAIChat, OpenAIEmbeddings, codec, names
from fanout.errors import ConfigError
from fanout.types import Payload

KINDS: dict[str, type[Codec]] = {
    "json": Json,
    "v1": V1,
    "oip": Oip,
    "openai-embeddings": OpenAIEmbeddings,
    "openai-chat": OpenAIChat,
}


class Own(Codec):
    """A codec of another package."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def encode(self, rows):
        return Payload(body=b"")

    def decode(self, response, n_rows):
        raise NotImplementedError


@pytest.fixture
def registered(monkeypatch):
    """Register entry points: name -> value."""

    def register(**values):
        entry_points = [EntryPoint(name=name, value=value, group="fanout.codecs") for name, value in values.items()]
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda group: entry_points if group == "fanout.codecs" else []
        )

    return register


@pytest.mark.parametrize("name", KINDS)
def test_each_name_makes_its_codec(name):
    result = codec(name)
    assert type(result) is KINDS[name]
    assert result.name == name


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"openai-chat"}))
def test_codecs_of_numbers_take_the_options_of_the_base(name):
    result = codec(name, nonfinite="keep", dtype="float32", shape=[3])
    assert result.nonfinite == "keep"
    assert {(spec.dtype, spec.shape) for spec in result.spec.values()} == {(np.dtype("f4"), (3,))}


def test_a_codec_of_texts_has_no_option_for_numbers():
    with pytest.raises(ConfigError, match="its options are model, prompt, system"):
        codec("openai-chat", dtype="float32")


def test_the_names_are_listed():
    assert names()[:5] == list(KINDS)


def test_all_is_the_namespace():
    homes = {getattr(fanout.codecs, name).__module__ for name in fanout.codecs.__all__}
    assert all(home.startswith("fanout.codecs") for home in homes)
    assert sorted(fanout.codecs.__all__, key=str.lower) == sorted(
        [
            "Codec",
            "Json",
            "Oip",
            "OpenAIChat",
            "OpenAIEmbeddings",
            "V1",
            "codec",
            "codec_class",
            "in_row_order",
            "names",
        ],
        key=str.lower,
    )


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"'openai-embedding' \(did you mean 'openai-embeddings'\?\); there are json, v1"
    ) as caught:
        codec("openai-embedding")
    assert caught.value.key == "name"


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"codec 'json' has no option 'answrs' \(did you mean 'answers'\?\)"
    ) as caught:
        codec("json", answrs="x")
    assert caught.value.key == "answrs"


def test_an_option_unlike_any_other_is_refused_with_all():
    with pytest.raises(
        ConfigError, match="its options are binary, input, outputs, parameters, dtype, shape, nonfinite"
    ):
        codec("oip", zzz=1)


def test_a_registered_codec_is_available_by_name(registered):
    registered(own="own_codec:Own")
    assert names()[-1] == "own"
    with pytest.raises(ConfigError, match="cannot be imported"):
        codec("own")


def test_a_registered_codec_may_take_any_option(registered, monkeypatch):
    monkeypatch.setattr(fanout.codecs, "Own", Own, raising=False)
    registered(own="fanout.codecs:Own")
    assert codec("own", anything=1).options == {"anything": 1}


@pytest.mark.parametrize("value", ["fanout.codecs:names", "fractions:Fraction"])
def test_a_registered_object_that_is_no_codec_is_refused(registered, value):
    registered(own=value)
    with pytest.raises(ConfigError, match="no subclass"):
        codec("own")


def test_no_other_package_takes_a_packaged_name(registered):
    registered(json="fanout.codecs:Oip")
    assert type(codec("json")) is Json
    assert names().count("json") == 1
