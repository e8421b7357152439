"""The local model server behind ``local://NAME``: real HTTP and a real model, with no network to leave.

Nothing is imported here, so that ``fanout.serving.protocol`` (the pure handlers) comes without aiohttp.
"""
