"""Rules for errors that only one API has: a status, a path in the body and its value, to the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from fanout.codecs._options import StatusRule, require_keys
from fanout.codecs._parsing import small_document
from fanout.codecs._paths import Finder, finder
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError
from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from fanout.types import Response

# A text that a rule looks for is in the beginning of the body.
_SEARCHED = 2**18
_STEPS = {"quota": Action.STOP, "fail": Action.FAIL, "retry": Action.RETRY}


class StatusRules:
    """Classifies the answers that a rule describes; the first rule that holds decides.

    Raises `ConfigError` for a rule that cannot be used.
    """

    def __init__(self, rules: Sequence[Mapping[str, Any]]) -> None:
        if not isinstance(rules, list | tuple):
            raise ConfigError(f"status_rules must be a list of rules, not {rules!r}", key="status_rules")
        self._rules = [_Rule(rule, f"status_rules[{i}]") for i, rule in enumerate(rules)]

    def __call__(self, response: Response) -> Verdict | int | None:
        """The step or the status that a rule gives to ``response``; None where no rule holds."""
        # Parsed once for all rules, and not at all where a large body is an answer rather than an error.
        document = small_document(response)
        for rule in self._rules:
            if rule.holds(response, document):
                return (
                    rule.status
                    if rule.action is None
                    else Verdict(action=rule.action, reason="", status=response.status, stop="quota", about_rows=True)
                )
        return None


class _Rule:
    def __init__(self, rule: object, key: str) -> None:
        if not isinstance(rule, Mapping):
            raise ConfigError(f"{key} must be a table, not {rule!r}", key=key)
        require_keys(key, rule, StatusRule.__annotations__)
        self._status = rule.get("status")
        if self._status is not None and not _is_status(self._status, 200):
            raise ConfigError(f"{key}.status must be a status of HTTP, not {self._status!r}", key=f"{key}.status")
        path = rule.get("path")
        self._find: Finder | None = None if path is None else finder(path, f"{key}.path")
        self._has_value = "equals" in rule
        self._equals, self._contains = rule.get("equals"), rule.get("contains")
        if self._contains is not None and not isinstance(self._contains, str):
            raise ConfigError(f"{key}.contains must be a text, not {self._contains!r}", key=f"{key}.contains")
        if self._has_value and self._find is None:
            raise ConfigError(f"{key} has equals without a path to the value", key=f"{key}.equals")
        if self._status is None and self._find is None and self._contains is None:
            raise ConfigError(f"{key} has no condition: give it a status, a path or contains", key=key)
        then = rule.get("then")
        if not (_is_status(then, 400) or (isinstance(then, str) and then in _STEPS)):
            raise ConfigError(
                f'{key}.then must be "quota", "fail", "retry" or a status from 400 to 599, not {then!r}',
                key=f"{key}.then",
            )
        self.action = _STEPS.get(then) if isinstance(then, str) else None
        self.status = then if isinstance(then, int) else None

    def holds(self, response: Response, document: Any) -> bool:
        """True if all conditions of the rule hold."""
        if self._status is not None and response.status != self._status:
            return False
        if self._find is None:
            return self._contains is None or self._contains.encode() in response.body[:_SEARCHED]
        try:
            value = self._find(document)
        except Unfit:
            return False
        if self._has_value:
            # True equals 1 in Python, but not in JSON.
            return bool(value == self._equals) and isinstance(value, bool) == isinstance(self._equals, bool)
        if self._contains is None:
            return value is not None and value is not False
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        return self._contains in text


def _is_status(value: object, least: int) -> bool:
    return type(value) is int and least <= value < 600
