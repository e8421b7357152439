"""The endpoints of a client: their state, the choice among them, and the admission of requests to them.

`EndpointGroup` is shared by all runs of a client. Each run sends through a `Dispatcher`, which decides when a
request may go and to which endpoint (`Balancer`, `CircuitBreaker`, `Cooldown`, and the limits of `fanout.limits`), and
the `Ticket` of the attempt reports the outcome to them (`Reporter`).
"""
