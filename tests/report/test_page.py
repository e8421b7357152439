"""The page of a report loads nothing, runs nothing, and shows any text as text."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from fanout.io.journal.state import JournalState
from fanout.report import Example, RecordedSession, report_page
from fanout.report.recording import EndpointTotals, Note, OutputSample, Sample, Session, Totals
from fanout.results import Failure
from fanout.rows import RowSet

EVIL = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg/onload=alert(3)>\x1b[31m\u202e"


class Parsed(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def sample(seconds, n, words):
    latency = None if n == 3 else (0.01, 0.1, 1.0)
    return Sample(seconds, 10 * n, n, n, 0, n, 3, 8, latency, (n, 2 * n), {words: 5 * n, "prompt_tokens": n})


def recorded(earlier=0, words=EVIL, stop=""):
    endpoints = [EndpointTotals(f"http://{name}/{words}", 5, 0.2, "in use", words) for name in "ab"]
    outputs = [
        OutputSample(words, "label", 10, [], {words: 3, "b": 7}),
        OutputSample("n", "number", 10, [0.5, 1.5, 2.25], {}),
        OutputSample("same", "number", 10, [0.5] * 5, {}),
    ]
    totals = Totals(5.0, 50, 5, 10, [(200, 5), (240, 3)], 8, 10, 20, endpoints, outputs, {words: 3}, 2, stop, words)
    notes = [Note(1.0, "pause", 2.0, words), Note(2.0, "opened", 0.0, words), Note(3.0, words, 0.0, words)]
    head = Session(1.7e9, 100, earlier, {words: {words: words}})
    samples = [sample(float(n), n, words) for n in range(1, 6)]
    return RecordedSession(head, samples, notes, totals=totals)


def failures(words=EVIL):
    return [
        Failure(start=n, stop=n + 1, reason=f"row {n}: {words}", status=422, attempts=1, endpoint=words)
        for n in range(20)
    ]


def page(words=EVIL, stop="", **account):
    options = {"done": 70, "complete": False, "failures": failures(words)} | account
    state = JournalState({}, RowSet([(0, options["done"])]), n_rows=100, complete=options["complete"])
    return report_page(words, [recorded(0, words), recorded(50, words, stop)], state, options["failures"])


def test_no_text_becomes_markup():
    harmless, evil = Parsed(page("words")), Parsed(page(EVIL))
    assert evil.tags == harmless.tags
    assert [name for name, _ in evil.attributes] == [name for name, _ in harmless.attributes]
    assert "<script>alert(1)</script>" in evil.text
    assert not {"script", "img", "iframe", "object", "form", "base"} & set(evil.tags)


def test_control_characters_are_shown_by_their_codes():
    shown = page(EVIL)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", shown)
    assert r"\x1b[31m\u202e" in shown


def test_the_policy_allows_this_style_sheet_and_nothing_else():
    shown = page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', shown)
    style = re.search(r"<style>(.*?)</style>", shown, re.DOTALL)[1]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style


def test_nothing_is_requested_and_no_style_is_inline():
    attributes = Parsed(page()).attributes
    assert not {name for name, _ in attributes if name in ("src", "style", "srcset", "action") or name.startswith("on")}
    assert [value for name, value in attributes if name == "href"] == ["data:,"]


def test_every_chart_has_a_question_and_a_label_for_screen_readers():
    parsed = page("words")
    figures = re.findall(r"<figure.*?</figure>", parsed, re.DOTALL)
    assert len(figures) > 10
    for one in figures:
        assert re.search(r"<h3>[^<]*\?</h3>", one)
        for drawing in re.findall(r"<svg[^>]*>", one):
            assert 'role="img" aria-label=' in drawing or 'aria-hidden="true"' in drawing


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stop": "deadline"}, "stopped early: "),
        ({"complete": True, "done": 100}, "complete, but 20 rows failed"),
        ({"complete": True, "done": 100, "failures": ()}, "complete: every row has an answer"),
        ({}, "ended with an error; run the job again, without --fresh, to resume"),
    ],
)
def test_the_state_of_the_run_is_at_the_head(options, words):
    shown = page("why", **options)
    assert re.search(r'<span class="status \w+">(.*?)</span>', shown)[1].startswith(words)


def test_failures_of_one_cause_are_one_line():
    shown = page("too long")
    assert "20 rows failed, for 1 reason." in shown
    assert shown.count("row 0: too long") == 1


def test_a_model_that_answers_all_rows_alike_shows():
    assert "All values are 0.5." in page("words")


def test_no_input_row_is_shown_unless_it_is_given():
    assert "It has no input rows." in page("words")
    one = recorded(0, "words")
    one.examples.append(Example(3, "a secret diary", "0.5"))
    shown = report_page("job", [one], JournalState({}, RowSet([(0, 50)]), n_rows=100), [])
    assert "a secret diary" in shown
    assert "but those in the section Rows" in shown


def test_a_recording_without_samples_makes_a_page():
    session = RecordedSession(Session(0.0, None, 0, {}))
    shown = report_page("job", [session], JournalState({}), [])
    assert "not finished: the run is under way, or was killed" in shown
    assert "Too short for charts over time." in shown
