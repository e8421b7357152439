"""The fault server: a real server on a loopback port that answers rightly, except where a test tells it not to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.serving.faults.names import FAULTS
from fanout.serving.faults.server import FaultServerError, FaultyServer

if TYPE_CHECKING:
    from fanout.codecs.base import Codec

__all__ = ["FAULTS", "FaultServer", "FaultServerError"]


class FaultServer(FaultyServer):
    """An endpoint whose model is ``model``, on a free port of the loopback address: every fault on a real socket.

    ::

        async with FaultServer(lambda x: x * 2) as server:
            server.script("reset-before-headers", None, "drip:0.01", 503)
            async with fanout.Client(server.url("v1"), codec="v1") as client:
                y = await client.map(X)

    With ``faults={"reset-mid-body": 0.05, "503": 0.1}, seed=1`` they come by chance, the same to the same request
    bodies in every run, and never more than twice in a row to one body; ``refused`` alone befalls all that are under
    way. `FAULTS` names them all.

    Args:
        model: takes the rows of a request (an array, or a list of texts) and returns an array or a dict of arrays; or a
            whole `fanout.serving.models.Model`, which can describe its inputs and outputs.
        faults: probabilities by fault, or a function that gives the step (as for `script`) for each request.
        seed: another one brings other faults.
        latency: seconds that every answer takes.
        host, port: where to listen; port 0 takes a free one.
        tls: what the server proves itself by; without it, it speaks plain HTTP.
        record: keep every request in `requests`, with its time in `times`.
        worker: where the model is called; by default in the event loop.

    Raises:
        FaultServerError: at the end, if the model or a function of faults made it break; a client saw no more of that
            than a lost connection.
    """

    def url(self, codec: str | Codec | type[Codec] = "json") -> str:
        """The URL at which ``codec`` finds the model."""
        if isinstance(codec, str):
            from fanout.codecs import codec as by_name

            codec = by_name(codec)
        return self.origin + codec.path.replace("{model}", self.model.name)
