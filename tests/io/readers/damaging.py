"""Damage files and read them, in a process of its own, which damage may end. See test_damage.py."""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path

from fanout.errors import InputError
from fanout.io.readers.opening import open_source
from fanout.rows import count_rows

_MEMORY = 4 * 2**30


def damaged(data: bytes, chance: random.Random) -> bytes:
    """``data`` cut short, or with some bytes changed."""
    kind = chance.random()
    if kind < 0.1:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    if kind < 0.3:
        start = chance.randrange(len(data))
        stop = min(len(data), start + chance.choice([4, 8, 64]))
        changed[start:stop] = chance.choice([b"\0", b"\x7f", b"\xff"]) * (stop - start)
        return bytes(changed)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(data))
        changed[at] = chance.choice([chance.randrange(256), changed[at] ^ (1 << chance.randrange(8)), 0x7F, 0xFF])
    return bytes(changed)


def read_damaged(file: Path, columns: list[str], seeds: int) -> None:
    """Print a line for each seed: whether the rows could be read, or which error came."""
    _say(file.name)
    data = file.read_bytes()
    copy = file.with_name(f"damaged-{file.name}")
    for seed in range(seeds):
        copy.write_bytes(damaged(data, random.Random(seed)))
        try:
            source = open_source(copy, columns[seed % len(columns)] if columns else None)
            there = 0
            for block in source.blocks():
                there += count_rows(block.rows)
                repr(block.rows)
            _say("read" if source.n_rows in (None, there) else f"{there} rows of {source.n_rows}")
        except InputError as error:
            _say("refused" if copy.name in str(error) else f"a nameless file: {error}")
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            _say(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for argument in sys.argv[2:]:
        path, *names = argument.split(":")
        read_damaged(Path(path), names, int(sys.argv[1]))
