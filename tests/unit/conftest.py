"""Unit tests on a busy machine are slow, not wrong: hypothesis sets no time for an example."""

from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
