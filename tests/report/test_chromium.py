"""The report of a troubled run in headless Chromium: it fits, in light and dark, and asks for nothing.

Set ``FANOUT_SCREENSHOTS`` to a folder to keep the screenshots.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from base64 import b64decode
from itertools import count
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from fanout.faults.server import FaultServer
from fanout.job import load_job, run_job

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

JOB = """
[input]
path = "x.jsonl"
column = "n"

[endpoint]
urls = ["{first}", "{second}"]

[codec]
name = "v1"

[chunks]
rows = 2

[limits]
concurrency = "auto"
max_requests = {requests}

[output]
path = "y.npy"
"""


LOADED = "document.readyState == 'complete' || new Promise(done => addEventListener('load', () => done(true)))"
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


class Browser:
    """A page of headless Chromium, through its DevTools protocol."""

    def __init__(self, socket):
        self._socket, self._numbers, self.events = socket, count(1), []

    async def call(self, method, **params):
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=30)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    async def evaluate(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"]["value"]


@contextlib.asynccontextmanager
async def browser(folder):
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
        "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={folder}", "about:blank",
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while b"DevTools listening on" not in (line := await asyncio.wait_for(process.stderr.readline(), 30)):
            assert line, "Chromium has ended"
        origin = line.split(b"ws://")[1].split(b"/")[0].decode()
        async with aiohttp.ClientSession() as session:
            pages = await (await session.get(f"http://{origin}/json")).json()
            url = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            async with session.ws_connect(url, max_msg_size=2**26) as socket:
                yield Browser(socket)
    finally:
        process.terminate()
        with contextlib.suppress(ProcessLookupError):
            await asyncio.wait_for(process.communicate(), 30)


async def troubled_run(folder):
    """Run a job on two endpoints with faults to a stop, and once more; return the path of its report."""
    (folder / "x.jsonl").write_text("".join(f'{{"n": [{n}.0]}}\n' for n in range(6000)))
    faults = {"503": 0.05, "429": 0.02, "500": 0.03}
    async with (
        FaultServer(np.asarray, faults=faults, latency=0.02) as one,
        FaultServer(np.asarray, latency=0.03) as two,
    ):
        text = JOB.replace("{first}", one.url("v1")).replace("{second}", two.url("v1"))
        for requests in (600, 400):
            (folder / "job.toml").write_text(text.replace("{requests}", str(requests)))
            summary = await run_job(load_job(folder / "job.toml"))
            assert summary.stop.kind == "max_requests"
    return folder / "y.npy.report.html"


async def test_it_fits_and_asks_for_nothing_in_light_and_dark_at_two_widths(tmp_path):
    report = await troubled_run(tmp_path)
    kept = Path(os.environ.get("FANOUT_SCREENSHOTS", tmp_path))
    async with browser(tmp_path / "profile") as page:
        for domain in ("Page", "Network", "Log", "Runtime"):
            await page.call(f"{domain}.enable")
        colours = {}
        for scheme in ("light", "dark"):
            scheme_of_page = {"name": "prefers-color-scheme", "value": scheme}
            await page.call("Emulation.setEmulatedMedia", media="screen", features=[scheme_of_page])
            for width in (1280, 390):
                metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                await page.call("Emulation.setDeviceMetricsOverride", **metrics)
                await page.call("Page.navigate", url=report.as_uri())
                await page.evaluate(LOADED)
                assert await page.evaluate(FITS)
                assert await page.evaluate("document.querySelectorAll('figure').length") >= 9
                colours[scheme] = await page.evaluate("getComputedStyle(document.body).backgroundColor")
                shot = await page.call("Page.captureScreenshot", captureBeyondViewport=True)
                (kept / f"report-{scheme}-{width}.png").write_bytes(b64decode(shot["data"]))
        await page.call("Emulation.setEmulatedMedia", media="print", features=[])
        assert (await page.call("Page.printToPDF", printBackground=True))["data"]
    assert colours["light"] != colours["dark"]
    urls = [
        event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url.split(":")[0] for url in urls} <= {"file", "data", "about"}
    assert [event for event in page.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
