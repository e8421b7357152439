"""Compare the speed of fanout with its peers and with a bare aiohttp loop: ``python -m benchmarks``."""
