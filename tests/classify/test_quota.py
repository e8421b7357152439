"""Exhausted money and quotas in the words of each vendor (row 72 of the fault matrix), and errors in a 200 (row 70)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from multidict import CIMultiDict

from fanout.classify import classify_invalid, classify_response
from fanout.errors import InvalidResponse
from fanout.types import Action, Payload, Response


def response(status: int, body: Any, **headers: str) -> Response:
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(status=status, headers=fields, body=body if isinstance(body, bytes) else orjson.dumps(body))


def violations(*ids: str) -> dict[str, Any]:
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": name} for name in ids]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "41s"},
    ]
    message = "You exceeded your current quota, please check your plan and billing details."
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message, "details": details}}


LOW = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
EXHAUSTED = {
    "OpenAI": (429, {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "exceeded"}}),
    "OpenAI hard limit": (400, {"error": {"code": "billing_hard_limit_reached", "message": "limit"}}),
    "OpenAI project": (429, {"error": {"code": "project_spend_limit_exceeded", "message": "limit"}}),
    "Anthropic 400": (400, {"type": "error", "error": {"type": "invalid_request_error", "message": LOW}}),
    "Anthropic 403": (403, {"type": "error", "error": {"type": "billing_error", "message": "billing"}}),
    "Anthropic limit": (429, {"type": "error", "error": {
        "type": "rate_limit_error", "message": "x", "details": {"error_code": "enforced_spend_limit_reached"}}}),
    "Anthropic usage": (400, {"error": {"message": "You have reached your specified API usage limits. You will regain "
                                        "access on 2026-12-01 at 00:00 UTC."}}),
    "Anthropic behind LiteLLM": (400, {"error": {"message": f'litellm.BadRequestError: AnthropicException - {{"type":'
                                                 f'"error","error":{{"message":"{LOW}"}}}}'}}),
    "Google": (429, violations("GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
                               "GenerateRequestsPerDayPerProjectPerModel-FreeTier")),
    "Google in a list": (429, [violations("GenerateRequestsPerDayPerProjectPerModel")]),
    "Cohere": (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month. You can "
                     "continue to use the Trial key for free or upgrade to a Production key"}),
    "OpenRouter": (402, {"error": {"code": 402, "message": "Insufficient credits. Add more"}}),
    "OpenRouter free": (429, {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day. Add 10"}}),
    "OpenRouter free, by its source": (429, {"error": {"code": 429, "message": "no", "metadata": {
        "limit_source": "openrouter_free_tier_daily"}}}),
    "OpenRouter key": (403, {"error": {"code": 403, "message": "Key limit exceeded (total limit)."}}),
    "the provider behind OpenRouter": (429, {"error": {"code": 429, "message": "Provider returned error", "metadata": {
        "raw": '{"error": {"code": "insufficient_quota", "message": "exceeded"}}'}}}),
    "the words of the provider behind OpenRouter": (400, {"error": {"code": 400, "message": "Provider returned error",
        "metadata": {"raw": f'{{"error": {{"type": "invalid_request_error", "message": "{LOW}"}}}}'}}}),
    "Anthropic's client": (400, {"error": {"message": "Error code: 400 - {'type': 'error', 'error': {'type': "
                                           f"'invalid_request_error', 'message': '{LOW}'}}}}"}}),
    "OpenAI behind LiteLLM": (429, {"error": {"message": "litellm.RateLimitError: RateLimitError: OpenAIException - "
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.", "code": "429"}}),
    "LiteLLM's budget": (400, {"error": {"message": "Budget has been exceeded! Current cost: 14.2, Max budget: 10.0",
                                         "type": "budget_exceeded", "param": None, "code": "400"}}),
    "LiteLLM's budget as another error": (400, {"error": {"message": "litellm.BadRequestError: OpenAIException - "
        "Budget has been exceeded! Current cost: 14, Max budget: 10.", "type": None, "code": "400"}}),
    "Google's prepayment": (429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED",
                                            "message": "Your prepayment credits are depleted. Please go to"}}),
    "a code in place of an error": (429, {"error": "insufficient_quota"}),
    "Bedrock": (400, {"__type": "ServiceQuotaExceededException", "message": "quota"}),
    "Bedrock daily": (429, {"message": "Too many tokens per day, please wait before trying again."}),
    "anyone's 402": (402, b"pay"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body"), EXHAUSTED.values(), ids=EXHAUSTED)
@pytest.mark.parametrize("headers", [{}, {"Retry_After": "1", "x_should_retry": "true"}])
def test_an_error_for_exhausted_money_stops_the_run_with_its_message(
    status: int, body: Any, headers: dict[str, str]
) -> None:
    verdict = classify_response(response(status, body, **headers))
    assert (verdict.action, verdict.stop, verdict.status, verdict.pushback) == (Action.STOP, "quota", status, None)
    assert verdict.reason.startswith(f"HTTP {status}: ")
    assert len(verdict.reason) > len("HTTP 429: ")


def test_the_name_of_an_aws_error_may_be_in_the_header() -> None:
    name = "ServiceQuotaExceededException:http://internal.amazon.com/coral/com.amazon.bedrock/"
    assert classify_response(response(400, b"", x_amzn_ErrorType=name)).stop == "quota"
    throttled = classify_response(
        response(400, {"message": "Too many tokens"}, x_amzn_ErrorType="ThrottlingException:x")
    )
    assert (throttled.action, throttled.status, throttled.overload) == (Action.RETRY, 429, True)


NOT_EXHAUSTED = {
    "a minute's quota of Google": (429, violations("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")),
    "a minute's calls of Cohere": (429, {"message": "You are using a Trial key, which is limited to 40 API calls / "
                                         "minute."}),
    "a rolling day of Groq": (429, {"error": {"message": "Rate limit reached on tokens per day (TPD): Limit 100000. "
                                              "Please try again in 1m26s.", "code": "rate_limit_exceeded"}}),
    "a minute of Bedrock": (429, {"message": "Too many tokens, please wait before trying again."}),
    "a row that says so": (400, {"detail": [{"loc": ["body", 3], "msg": f"not a question: {LOW!r}"}]}),
    "another row that says so": (400, {"error": {"message": f"row 3 ({LOW}) is no JSON"}}),
    "a row in quotes": (400, {"error": {"message": "invalid input: 'Error: Insufficient credits on my card'"}}),
    "a row in an object": (400, {"error": {"message": 'cannot take {"message": "Insufficient balance"}'}}),
    "a minute's quota of Google behind LiteLLM": (429, {"error": {"message": "litellm.RateLimitError: "
        'geminiException - {"error": {"code": 429, "message": "You exceeded your current quota, please check your '
        "plan and billing details. For more information on this error, head to: https://ai.google.dev/gemini-api/docs/"
        'rate-limits. Please retry in 34s."}}'}}),
    "the pool of a provider": (429, {"error": {"message": "Provider returned error", "code": 429, "metadata": {
        "raw": "glm is temporarily rate-limited upstream. Please retry shortly.",
        "limit_source": "upstream_provider_shared_pool"}}}),
    "code of another type": (429, {"error": {"code": ["insufficient_quota"], "details": "insufficient_quota"}}),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body"), NOT_EXHAUSTED.values(), ids=NOT_EXHAUSTED)
def test_a_limit_that_passes_and_a_row_that_talks_of_money_are_no_quota(status: int, body: Any) -> None:
    assert classify_response(response(status, body)).action in (Action.RETRY, Action.SPLIT)


@pytest.mark.parametrize("status", [400, 403, 429])
def test_words_that_the_request_holds_too_are_no_proof(status: int) -> None:
    error = response(status, {"error": {"message": f"'{LOW}' is not of type 'number'"}})
    assert classify_response(error).stop == "quota"
    sent = Payload(body=(b'{"instances": ["My bank says: ', b'YOUR CREDIT balance is too low!"]}'))
    verdict = classify_response(error, quotes=sent.holds)
    assert verdict.stop != "quota"
    coded = response(status, {"error": {"message": LOW, "code": "billing_not_active"}})
    assert classify_response(coded, quotes=sent.holds).stop == "quota"


def test_the_providers_words_are_shown() -> None:
    raw = '{"error": {"message": "supports at most 1 image per prompt"}}'
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}
    reason = classify_response(response(400, {"error": error})).reason
    assert reason == "HTTP 400: Provider returned error; supports at most 1 image per prompt"


HIDDEN = [
    ({"error": {"code": 429, "message": "slow"}}, 429),
    ({"error": {"code": "429"}}, 429),
    ({"error": {"status": 503}}, 503),
    ({"error": {"status": "UNAVAILABLE"}}, 503),
    ({"error": {"status": "RESOURCE_EXHAUSTED", "code": 8}}, 429),
    ({"error": {"code": 401}}, 401),
    ({"error": {"code": 403}}, 403),
    ({"error": {"type": "overloaded_error"}}, 529),
    ({"type": "error", "error": {"type": "rate_limit_error"}}, 429),
    ({"error": {"type": "invalid_request_error", "code": None}}, 400),
    ({"error": {"code": "rate_limit_exceeded"}}, 429),
    ({"error": {"status_code": 502}}, 502),
    ({"error": "Model is overloaded", "error_type": "overloaded"}, 429),
    ({"code": 503, "message": "down"}, 503),
    ({"status": 500, "message": "down"}, 500),
    ({"object": "error", "code": 400, "message": "no"}, 400),
    ({"__type": "com.amazon.coral.service#ThrottlingException", "message": "no"}, 429),
    ([{"error": {"code": 503}}], 503),
    ({"detail": {"code": 429.0}}, 429),
    (b'\xef\xbb\xbf {"error": {"code": 429}}', 429),
    ({"error": {"error": {"code": 429}}}, 429),
    ({"detail": {"error": {"code": 429}}}, 429),
    ({"error": {"message": "slow down"}, "status": 429}, 429),
    ({"errors": [{"status": "503", "title": "down"}]}, 503),
    ({"error": "Too Many Requests"}, 429),
    ({"error": "rate_limit_exceeded"}, 429),
    ({"message": "Too Many Requests"}, 429),
    ({"message": "Service Unavailable."}, 503),
    ({"object": "error", "type": "rate_limited", "code": "1300", "raw_status_code": 429}, 429),
    ({"error": {"code": "429 Too Many Requests"}}, 429),
    ({"error": {"code": "HTTP_503"}}, 503),
    ({"error": {"code": 429, "message": "no"}, "predictions": [[1.0]]}, 429),
    ({"code": 429, "message": "no", "details": [{"reason": "x"}]}, 429),
]


@pytest.mark.parametrize(("body", "status"), HIDDEN)
def test_an_error_with_status_200_has_the_status_of_its_body(body: Any, status: int) -> None:
    verdict = classify_invalid(response(200, body, Retry_After="7"), InvalidResponse("no 'predictions'"))
    same = classify_response(response(status, body, Retry_After="7"))
    fields = ("action", "status", "pushback", "overload", "stop", "error_kind")
    assert {name: getattr(verdict, name) for name in fields} == {name: getattr(same, name) for name in fields}
    assert verdict.reason.startswith(f"HTTP 200, which holds an error {status}: ")


@pytest.mark.parametrize(
    "body",
    [{}, [], {"error": None}, {"error": "no"}, {"error": {"code": 200}}, {"error": {"code": True}}, {"status": "ok"},
     {"error": {"code": "9" * 5000}}, {"error": {"code": [429]}}, {"type": "list"}, {"code": 0}, b"\xff", b"",
     {"error": {"code": "4290"}}, {"error": {"code": "E429"}}, {"message": "429 rows were processed"}],
)  # fmt: skip
def test_an_answer_that_names_no_error_is_merely_invalid(body: Any) -> None:
    verdict = classify_invalid(response(200, body), InvalidResponse("no 'predictions'"))
    assert (verdict.action, verdict.error_kind, verdict.reason) == (Action.RETRY, "content", "no 'predictions'")


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429, 503, "forbidden", "insufficient_quota", "overloaded"])
@pytest.mark.parametrize("field", ["status", "code", "type", "status_code", "error_code"])
def test_an_output_of_the_model_is_no_error_whatever_its_name_and_value(field: str, status: Any) -> None:
    bodies = [
        [{field: status, "score": 1.0}, {field: 200, "score": None}],
        [{field: status, "score": "?"}],
        {"predictions": [[1.0]], field: status},
        {"predictions": [[1.0]], "detail": {field: status}},
        {"outputs": {"score": [1.0]}, field: status},
        {"predictions": [{"error": {field: status}}]},
        {"data": [{"embedding": [1.0], "index": 0}], "error": None, field: status},
    ]
    for body in bodies:
        verdict = classify_invalid(response(200, body), InvalidResponse("a row is missing", error_kind="rows"))
        assert (verdict.action, verdict.error_kind, verdict.overload) == (Action.RETRY, "rows", False), body


@pytest.mark.parametrize("text", ["exception ", "message: ", "error'", " " * 3, "perday", "credit balance "])
def test_a_message_of_any_length_is_searched_in_linear_time(text: str) -> None:
    body = {"error": {"message": text * 30_000, "code": text * 100}}
    assert classify_response(response(400, body)).action in (Action.SPLIT, Action.STOP)
