"""Where clients run. The only part of `fedmem` that knows Flower.

Flower reads these variables while it is imported, so they are set here, before any import of it: no
telemetry, no question for newer versions, no installation while a run is under way, and a quiet
logger. A value set by the user stands.
"""

import os

FLOWER_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in FLOWER_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
