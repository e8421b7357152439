"""The report of a run: recorded beside its journal while it runs, and written as one HTML file.

`RunRecorder` is a listener that the engine does not know; `read_recording` reads what it recorded, and `report_page`
makes the page.
"""

from fanout.report.page import report_page
from fanout.report.recorder import Ending, Measured, RunRecorder
from fanout.report.recording import Example, RecordedSession, read_recording
from fanout.report.sections import FailureGroup, group_failures

__all__ = [
    "Ending", "Example", "FailureGroup", "Measured", "RecordedSession", "RunRecorder", "group_failures",
    "read_recording", "report_page",
]  # fmt: skip
