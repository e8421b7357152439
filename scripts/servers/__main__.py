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
from installation import CACHE, NotToBeHadError, cache, installed
from running import FailedToStartError, Running

NOT_TO_BE_HAD = 77
"""Exit code by which test harnesses know "skipped"."""


def main() -> int:
    """Do what the command line says. The exit code is 77 if a server cannot be installed, 1 if it does not start."""
    epilog = f"The environments are in {cache()}; {CACHE} names another folder."
    parser = ArgumentParser("servers", description=__doc__, epilog=epilog, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SERVERS))
    parser.add_argument("--port", type=int, default=0, help="of HTTP; a free one if left out")
    parser.add_argument("--install", action="store_true", help="only install, all or those named, side by side")
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
    """Install several at once, and print the interpreter of each."""
    with ThreadPoolExecutor() as pool:
        made = {name: pool.submit(installed, name) for name in names}
    for future in made.values():
        error = future.exception()
        if error is None:
            print(future.result())
        elif isinstance(error, NotToBeHadError):
            print(error, file=sys.stderr)
        else:
            raise error
    return NOT_TO_BE_HAD if any(future.exception() for future in made.values()) else 0


def _serve(name: str, port: int, *, guarded: bool) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        running = Running(SERVERS[name], installed(name), port)
    except (NotToBeHadError, OSError) as error:
        print(error, file=sys.stderr)
        return NOT_TO_BE_HAD if isinstance(error, NotToBeHadError) else 1
    try:
        if guarded:
            Thread(target=_interrupt_at_end_of_stdin, daemon=True).start()
        running.wait_until_ready()
        print(running.url, flush=True)
        return running.wait() or 1  # that it ends by itself is never what was wanted
    except FailedToStartError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatience must not leave processes behind
        running.stop()


def _interrupt_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
