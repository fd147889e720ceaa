"""Generated examples may take as long as a busy machine needs."""

from hypothesis import settings

settings.register_profile("rayllama", deadline=None)
settings.load_profile("rayllama")
