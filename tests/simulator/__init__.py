"""Simulated servers in virtual time, to measure controllers, balancers and hedges.

`servers` has the parts, `catalog` the endpoints made of them. `closed_loop` drives a controller alone, at some hundred
thousand requests a second; `transport` puts the same servers behind a whole client. The same seed brings the same run.
"""
