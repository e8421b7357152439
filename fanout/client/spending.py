"""The spending of a run into a sink: its journal records an allowance before it is spent, and the sum at the end.

A process that is killed leaves no account of its last requests. So its journal says how much it may spend before the
next record, and the process that resumes the run counts all of that as spent.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np

from fanout.engine import Stop
from fanout.io.journal.state import Spent
from fanout.limits import Amount
from fanout.threads import ended, on_thread
from fanout.usage import USAGE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fanout.engine import Run
    from fanout.io.journal.journal import Journal
    from fanout.limits import Account
    from fanout.results import ChunkResult
    from fanout.types import Schema

# Requests that one allowance pays for, at least: each allowance costs a trip to the disk.
_STEP = 32


def spent_before(journal: Journal) -> Amount:
    """Return the spending of earlier processes of the run."""
    spent = journal.state.charged or Spent()
    return Amount(spent.cost, spent.tokens)


@asynccontextmanager
async def recorded(journal: Journal | None, account: Account | None, run: Run, concurrency: int) -> AsyncIterator[None]:
    """Record the spending of ``run`` in ``journal`` while it is executed."""
    if journal is None or account is None:
        yield
        return
    earlier, spending, is_priced = journal.state.charged or Spent(), run.counters.spending, account.prices.is_set

    def spent() -> Spent:
        is_known = earlier.is_known and is_priced and spending.known_cost is not None
        return Spent(account.spent.cost, account.spent.tokens, earlier.estimated + spending.estimated, is_known)

    journal.spent = spent
    allowing = asyncio.create_task(_allow(journal, account, run, max(_STEP, 2 * concurrency)))
    try:
        yield
    finally:
        allowing.cancel()
        await ended(asyncio.gather(allowing, return_exceptions=True))


async def settle(journal: Journal) -> Stop | None:
    """Record the final sum, once nothing is in flight. Returns a stop if the journal cannot be written."""
    state = journal.state
    if journal.spent is None or (state.spending.allowed is None and journal.spent() == (state.spent or Spent())):
        return None
    try:
        await on_thread(journal.allow, None)
    except OSError as error:
        return Stop("output", f"the journal cannot be written: {error}")
    return None


def with_usage_columns(deliver: Callable[[ChunkResult], None]) -> Callable[[ChunkResult], None]:
    """Return a ``deliver`` that first adds the tokens of each row to the outputs, beside the answers."""

    def deliver_with_usage(done: ChunkResult) -> None:
        if done.outputs is not None:
            n_rows = done.stop - done.start
            usage = np.full((n_rows, len(USAGE_COLUMNS)), np.nan) if done.usage is None else done.usage
            columns = {name: np.ascontiguousarray(usage[:, at]) for at, name in enumerate(USAGE_COLUMNS)}
            done.outputs = {**done.outputs, **columns}
        deliver(done)

    return deliver_with_usage


def schema_of_answers(schema: Schema | None) -> Schema | None:
    """Return the schema of an output without the tokens that `with_usage_columns` adds."""
    return schema and {name: form for name, form in schema.items() if name not in USAGE_COLUMNS}


async def _allow(journal: Journal, account: Account, run: Run, requests: int) -> None:
    """Raise the allowance of a limited account as often as it is exhausted."""
    # Without a limit nothing has to be allowed; the final sum is recorded by `settle`.
    if not account.is_limited:
        return
    exhausted = asyncio.Event()
    # Nothing beyond the recorded sum may be spent before the journal allows it.
    account.allowance, account.on_exhausted = account.spent, exhausted.set
    while True:
        await exhausted.wait()
        exhausted.clear()
        allowance = account.next_allowance(requests)
        try:
            # Durable before it is spent: a kill can lose no more than is allowed.
            await on_thread(journal.allow, tuple(allowance))
        except OSError as error:
            run.stop(Stop("output", f"the journal cannot be written: {error}"))
            return
        account.allowance = allowance
        account.wait_queue.notify_all()
