"""How fast fanout is, beside its peers and beside the least that aiohttp costs: ``python -m benchmarks``."""
