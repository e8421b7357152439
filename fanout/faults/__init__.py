"""The faults of a bad network and a bad server, by name: one implementation for all fakes of an endpoint."""
