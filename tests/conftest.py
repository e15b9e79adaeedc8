"""What all tests share: hypothesis gives no example a deadline, for a shared machine may stand still at any moment."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("lmrs", deadline=None)
settings.load_profile("lmrs")
