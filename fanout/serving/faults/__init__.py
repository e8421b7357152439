"""A model server that misbehaves on purpose: every fault of a bad network and a bad server, by name, on a socket."""
