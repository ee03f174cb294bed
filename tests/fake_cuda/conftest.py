"""One process with the pretended device for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.fake_cuda.asking import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    started = Worker()
    yield started
    started.close()
