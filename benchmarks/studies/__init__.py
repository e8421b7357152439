"""fanout against itself: many chunks, failures, a journal, single rows. One question a module."""
