"""The journal: a record on disk of the rows that are done, so that a killed run can be resumed."""
