"""What a new request must be, on every database alike."""

from maitre.requests.request import RequestError, TuningRequest

LONGEST = 200
"""Characters of a name or key: what the tables have room for."""
MOST_ITERATIONS = 1_000_000


def check_new(request: TuningRequest) -> None:
    """Raise `RequestError` naming the first field that cannot be taken."""
    check_names(
        task=request.task, base_model=request.base_model or None, tenant=request.tenant,
        idempotency_key=request.idempotency_key,
    )  # fmt: skip
    if not 1 <= request.max_iterations <= MOST_ITERATIONS:
        raise RequestError(
            f"max_iterations {request.max_iterations}: expected 1 to {MOST_ITERATIONS:,}"
        )


def check_names(**names: str | None) -> None:
    """Raise `RequestError` for a name that is empty or too long; `None` is none."""
    for field, name in names.items():
        what = field.replace("_", " ")
        if name is not None and not name.strip():
            raise RequestError(f"{what}: must not be empty")
        if name is not None and len(name) > LONGEST:
            raise RequestError(
                f"{what} {name[:20]}…: {len(name)} characters, at most {LONGEST} are kept"
            )
