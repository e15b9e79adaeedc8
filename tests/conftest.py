"""What all tests share: a cache of their own, and no deadline for hypothesis: a shared machine may stand still at any moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("lmrs", deadline=None)
settings.load_profile("lmrs")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMRS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
