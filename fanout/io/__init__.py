"""Input and output: readers, writers and the journal."""
