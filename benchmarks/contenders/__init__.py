"""The same works, done by fanout, by hand, and by other clients: one a module."""
