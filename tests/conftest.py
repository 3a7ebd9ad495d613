"""Property tests repeat their examples; ``--hypothesis-profile=explore`` draws new ones."""

from hypothesis import settings

# A failure that comes and goes tells nobody who made it; and a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=300)
settings.load_profile("repeatable")
