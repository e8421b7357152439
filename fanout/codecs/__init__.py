from difflib import get_close_matches
from fanout.errors import ConfigError
def codec(name, **o):
    from fanout.codecs.json import Json
    if name!="json": raise ConfigError(f"there is no codec {name!r}; known are json, oip", key="name")
    try: return Json(**o)
    except TypeError as e: raise ConfigError(str(e), key=str(e).split("'")[1])
