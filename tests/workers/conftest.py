from collections.abc import Iterator

import pytest

from tests.workers.live import Live, live_pool


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_pool(tmp_path_factory.mktemp("live")) as made:
        yield made
