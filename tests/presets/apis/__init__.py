"""The APIs of the packaged presets, as the sources that the presets name describe them."""

from tests.presets.apis.clouds import CLOUDS
from tests.presets.apis.servers import SERVERS
from tests.presets.apis.vendors import VENDORS

APIS = [*VENDORS, *CLOUDS, *SERVERS]
