"""Compare fanout with itself: many chunks, failures, a journal, single rows. One question per module."""
