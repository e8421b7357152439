"""LiteLLM's proxy, and behind it a model in the form of OpenAI's API: vectors of texts, and answers to prompts."""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any
from zlib import crc32

NUMBERS = count(1)
# Of ten requests, three in a row meet a limit on requests: the proxy itself tries three times.
BUSY = (7, 8, 9)


class Backend(BaseHTTPRequestHandler):
    """The model."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if next(NUMBERS) % 10 in BUSY:
            self._send(
                429, {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
            )
        elif self.path.endswith("/embeddings"):
            self._send(200, embeddings(body))
        else:
            self._send(200, completion(body))

    def _send(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 429:
            self.send_header("Retry-After", "1")
            self.send_header("Retry-After-Ms", "20")  # for the proxy, which waits for so long before it tries again
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


def embeddings(body: Any) -> Any:
    """Answer with a vector of 4 numbers for each text, the checksums of which `tests.presets.mock_api` knows."""
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": [(crc32(f"{n}{text}".encode()) % 4096 - 2048) / 1024 for n in range(4)],
        }
        for i, text in enumerate(body["input"])
    ]
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def completion(body: Any) -> Any:
    """Answer with the prompt in capitals."""
    text = body["messages"][-1]["content"].upper()
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


def main(port: str, backend_port: str) -> None:
    """Serve the model from a thread, and the proxy from this one."""
    server = ThreadingHTTPServer(("127.0.0.1", int(backend_port)), Backend)
    Thread(target=server.serve_forever, daemon=True).start()
    os.environ["BACKEND"] = f"http://127.0.0.1:{backend_port}/v1"
    from litellm.proxy.proxy_cli import run_server

    sys.argv = ["litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", port]
    run_server()


if __name__ == "__main__":
    main(*sys.argv[1:])
