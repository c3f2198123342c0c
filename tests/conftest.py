"""What all tests have."""

from hypothesis import settings

# How long an example takes is the machine's business.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
