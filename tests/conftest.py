"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no fault of an example: no time limit for each.
settings.register_profile("fedmem", deadline=None, max_examples=60)
settings.load_profile("fedmem")
