"""When a new capacity model takes the place of the champion."""

from maitre.maxpack.scores import MaxpackScores

# Placement lives on the risk; a little throughput may be given for it, not more.
THROUGHPUT_TOLERANCE = 1.1


def is_better(challenger: MaxpackScores, champion: MaxpackScores) -> bool:
    """Whether the challenger's risk is strictly closer to the truth and its throughput no worse.

    Both must have been scored on the same configurations, which neither was trained on. The risk is
    compared by Brier score; the throughput error may grow by a tenth at most.
    """
    return (
        challenger.health_brier < champion.health_brier
        and challenger.throughput_error <= THROUGHPUT_TOLERANCE * champion.throughput_error
    )
