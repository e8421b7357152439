"""Sinks for answers: one file format a module, with `open_sink` to choose among them."""
