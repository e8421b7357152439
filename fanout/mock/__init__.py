"""The mock: a model of the right shape, in this process, answers in the endpoint's place, without a network."""

from fanout.mock.model import MockModel, outputs_of
from fanout.mock.transport import MockTransport

__all__ = ["MockModel", "MockTransport", "outputs_of"]
