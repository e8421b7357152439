"""The message of an error, and the status that a body names."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fanout.classify import classify_response, error_message
from fanout.classify.error_bodies import named_status
from fanout.types import Action, Response

TRACEBACK = """Traceback (most recent call last):
  File "model.py", line 492, in execute
    raise error
    ^^^^^^^^^^^
ValueError: no such digit"""


def response(body: Any) -> Response:
    return Response(status=400, headers={}, body=body if isinstance(body, bytes) else orjson.dumps(body))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": "batch-size must be <= 256"}, "batch-size must be <= 256"),
        ({"error": {"message": "you must provide a model", "type": "x"}}, "you must provide a model"),
        ({"error": "overloaded", "error_type": "Overloaded"}, "overloaded"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"message": "two\n lines"}, "two lines"),
        (
            {"detail": [{"loc": ["body", "input", 0], "msg": "too long", "input": "all my patients' names"}]},
            "body.input.0: too long",
        ),
        ({"detail": [{"msg": "a"}, {"msg": "b"}]}, "a; b"),
        ({"detail": [{"msg": letter} for letter in "abcde"]}, "a; b; c"),
        ({"detail": [1, 2]}, '{"detail":[1,2]}'),
        ({"code": 3}, '{"code":3}'),
        (["list"], '["list"]'),
        (b"<html>\n<h1>502 Bad Gateway</h1>", "<html> <h1>502 Bad Gateway</h1>"),
        (
            {"error": f"the model failed: {TRACEBACK}\n\nAt:\n  /m/1/model.py(501): execute"},
            "the model failed: ValueError: no such digit At:",
        ),
        (
            f"{TRACEBACK}\n\nDuring that:\n\n{TRACEBACK}".encode(),
            "ValueError: no such digit During that: ValueError: no such digit",
        ),
        (b"", "(empty body)"),
        (b"\xff\xfe", "��"),
    ],
)
def test_the_message_is_extracted(body: Any, text: str) -> None:
    assert error_message(response(body)) == text


def test_a_verdict_has_no_other_fields() -> None:
    body = {"detail": [{"loc": ["body", "x"], "msg": "bad", "input": "all my patients' names"}]}
    assert (
        classify_response(Response(status=422, headers={}, body=orjson.dumps(body))).reason == "HTTP 422: body.x: bad"
    )


def test_white_space_before_an_error_hides_nothing() -> None:
    body = b' \n{"error": {"type": "insufficient_quota", "message": "no money"}}'
    verdict = classify_response(Response(status=429, headers={}, body=body))
    assert (verdict.action, verdict.stop) == (Action.STOP, "quota")


def test_a_long_message_is_cut() -> None:
    assert len(error_message(response({"error": "x" * 10_000}))) == 303
    assert len(error_message(response(b"y" * 10_000))) == 303


@pytest.mark.parametrize(
    ("status", "names"),
    [
        (400, "INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE invalid_request_error BadRequestError bad-request"),
        (400, "ValidationException"),
        (401, "UNAUTHENTICATED authentication_error invalid_api_key Unauthorized UnrecognizedClientException"),
        (401, "InvalidSignatureException SignatureDoesNotMatch IncompleteSignature IncompleteSignatureException"),
        (401, "MissingAuthenticationToken MissingAuthenticationTokenException InvalidClientTokenId InvalidAccessKeyId"),
        (402, "billing_error payment_required"),
        (403, "PERMISSION_DENIED permission_error forbidden AccessDeniedException"),
        (404, "NOT_FOUND not_found_error ResourceNotFoundException"),
        (408, "ModelTimeoutException"),
        (409, "ABORTED ALREADY_EXISTS"),
        (413, "request_too_large"),
        (429, "RESOURCE_EXHAUSTED rate_limit_error rate_limit_exceeded too_many_requests rate_limit_reached ratelimit"),
        (429, "RateLimited request_limit_exceeded Throttled Throttling Throttling.RateQuota EngineOverloadedError"),
        (429, "Overloaded ThrottlingException TooManyRequestsException ModelNotReadyException"),
        (499, "CANCELLED"),
        (501, "UNIMPLEMENTED"),
        (502, "bad_gateway"),
        (503, "UNAVAILABLE temporarily_unavailable ServiceUnavailable ServiceUnavailableError unhealthy"),
        (503, "ServiceUnavailableException"),
        (504, "DEADLINE_EXCEEDED timeout_error gateway_timeout"),
        (529, "overloaded_error"),
        (None, "INTERNAL api_error server_error InternalServerException positive"),
    ],
)
def test_a_name_in_a_vendor_s_spelling_means_its_status(status: int | None, names: str) -> None:
    for name in names.split():
        assert named_status({"type": name}) == status, name
