"""Run nginx with the responses of all workloads as static files, with its own configuration in a temporary folder."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.servers import NotStarted, nginx_path
from benchmarks.workloads import Page, site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    etag off;
    if_modified_since off;
    tcp_nodelay on;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    open_file_cache max=64;
    client_max_body_size 0;
    client_body_buffer_size 16m;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ }}
    server {{
        listen 127.0.0.1:{port};
        location = /nothing {{ internal; return 204; }}
{locations}
    }}
}}
"""

# nginx refuses a POST to a static file, so the 405 is answered by the same file under another name. The mirror makes
# nginx read the whole body before it responds, as a model has to: without it the response overtakes large bodies.
_LOCATION = """
        location = {path} {{
            mirror /nothing; error_page 405 =200 /static/{number}; alias {folder}/{number}; {headers}
        }}
        location = /static/{number} {{ internal; alias {folder}/{number}; {headers} }}
"""

_TRIES = 3
_PATIENCE = 10.0


@contextmanager
def running() -> Iterator[str]:
    """Run nginx on a free port and return its origin.

    Raises:
        NotStarted: the message holds the log.
    """
    with tempfile.TemporaryDirectory(prefix="fanout-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        process, port = _started(folder, _locations(folder, site()))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _locations(folder: Path, pages: Mapping[str, Page]) -> str:
    locations = []
    for number, (path, page) in enumerate(pages.items()):
        (folder / str(number)).write_bytes(page.body)
        fields = [f"add_header {name} {value};" for name, value in page.headers.items()]
        headers = " ".join([f"default_type {page.content_type};", *fields])
        locations.append(_LOCATION.format(path=path, number=number, folder=folder, headers=headers))
    return "".join(locations)


def _started(folder: Path, locations: str) -> tuple[subprocess.Popen[bytes], int]:
    """Return the process and its port. Another process may take the free port first; then another port is tried."""
    configuration, program = folder / "nginx.conf", nginx_path() or "nginx"
    for _ in range(_TRIES):
        port = _free_port()
        configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, locations=locations))
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the command alone, which ends nginx
        )  # fmt: skip
        if _answers(process, port):
            return process, port
        process.kill()
        process.wait()
    log = folder / "error.log"
    raise NotStarted(f"nginx does not start: {log.read_text().strip() if log.exists() else 'it logged nothing'}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """True if it listens before it ends or the time is over."""
    end = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False
