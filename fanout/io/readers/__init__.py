"""Sources of rows: one file format a module, with `open_source` to choose among them."""
