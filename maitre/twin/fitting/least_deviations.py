"""Non-negative least absolute deviations, exactly, as a linear programme."""

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, identity, vstack

from maitre.twin.errors import require


def least_deviations(design: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the x >= 0 of least `sum(weight |design x - target|)`; one column of `design` each.

    Raises:
        TwinInputError: the solver finds none, as with numbers that are not finite.
    """
    require(
        bool(np.isfinite(design).all() and np.isfinite(target).all()),
        "samples: some times are no numbers",
    )
    rows, columns = design.shape
    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)
    scaled, miss = csr_matrix(design / scale), identity(rows, format="csr")
    found = linprog(
        np.concatenate([np.zeros(columns), weight]),
        A_ub=vstack([hstack([scaled, -miss]), hstack([-scaled, -miss])], format="csr"),
        b_ub=np.concatenate([target, -target]),
        bounds=(0, None),
        method="highs",
    )
    require(found.x is not None, f"samples: no fit was found ({found.message})")
    return np.asarray(found.x[:columns] / scale)
