"""Real model servers on this machine, for tests and examples: installs what is missing, starts one, and ends it.

    python scripts/servers triton --port 8000

The base URL is printed on stdout once the server takes requests; its log goes to stderr. Ctrl-C ends it.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

from catalog import SERVERS
from installation import CACHE, InstallationError, cache, installed
from running import FailedToStartError, Running

SKIPPED = 77
"""Exit code of a server that cannot be installed. Automake and other test harnesses take it for a skipped test."""


def main() -> int:
    """Run the command. Return 77 if a server cannot be installed, 1 if it does not start."""
    epilog = f"The environments are in {cache()}; {CACHE} names another folder."
    parser = ArgumentParser("servers", description=__doc__, epilog=epilog, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SERVERS))
    parser.add_argument("--port", type=int, default=0, help="HTTP port; default: a free one")
    parser.add_argument("--install", action="store_true", help="only install, in parallel: the servers named, or all")
    parser.add_argument("--stdin-guard", action="store_true", help="also end when stdin closes")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in SERVERS]:
        parser.error(f"no server {unknown[0]!r}; there are {', '.join(SERVERS)}")
    if arguments.install:
        return _install(arguments.names or list(SERVERS))
    if len(arguments.names) != 1:
        parser.error(f"name one server: {', '.join(SERVERS)}")
    return _serve(arguments.names[0], arguments.port, guarded=arguments.stdin_guard)


def _install(names: list[str]) -> int:
    """Install servers in parallel, and print the interpreter of each."""
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(installed, name) for name in names]
    for future in futures:
        error = future.exception()
        if error is None:
            print(future.result())
        elif isinstance(error, InstallationError):
            print(error, file=sys.stderr)
        else:
            raise error
    return SKIPPED if any(future.exception() for future in futures) else 0


def _serve(name: str, port: int, *, guarded: bool) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        running = Running(SERVERS[name], installed(name), port)
    except (InstallationError, OSError) as error:
        print(error, file=sys.stderr)
        return SKIPPED if isinstance(error, InstallationError) else 1
    try:
        if guarded:
            Thread(target=_interrupt_at_end_of_stdin, daemon=True).start()
        running.wait_until_ready()
        print(running.url, flush=True)
        # A server that ends by itself is a failure, whatever its exit code.
        return running.wait() or 1
    except FailedToStartError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        # A second Ctrl-C must not leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        running.stop()


def _interrupt_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
