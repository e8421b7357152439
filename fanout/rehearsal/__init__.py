"""Rehearsals: a run whose endpoint is played by a model of the right shape, in this process, without a network."""

from fanout.rehearsal.actor import Rehearsal
from fanout.rehearsal.model import MockModel, outputs_of

__all__ = ["MockModel", "Rehearsal", "outputs_of"]
