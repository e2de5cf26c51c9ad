"""Limits of a vLLM server: whole numbers."""

import pytest

from maitre.twin.errors import TwinInputError
from maitre.twin.limits import require_count


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1.5, True, "2", None])
def test_a_limit_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(TwinInputError, match="max_loras: expected a whole number"):
        require_count("max_loras", value, 1)
