"""The running batch: a list in order of admission, and a heap of when requests will be done."""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.state import DECODES


@compiled
def run_append(sim, request):
    """Add a request to the end of the running list."""
    server = sim.server[0]
    tail = server.run_tail
    sim.requests[request].run_previous = tail
    sim.requests[request].run_next = -1
    if tail < 0:
        server.run_head = request
    else:
        sim.requests[tail].run_next = request
    server.run_tail = request
    server.running += 1


@compiled
def run_remove(sim, request):
    """Remove a request from the running list."""
    server = sim.server[0]
    before, after = sim.requests[request].run_previous, sim.requests[request].run_next
    if before < 0:
        server.run_head = after
    else:
        sim.requests[before].run_next = after
    if after < 0:
        server.run_tail = before
    else:
        sim.requests[after].run_previous = before
    server.running -= 1


@compiled
def finish_stands(sim, place):
    """Return whether an entry of the finish heap is current: not preempted since."""
    request = sim.finishes[place].request
    return (
        sim.requests[request].status == DECODES
        and sim.requests[request].finish_step == sim.finishes[place].step
    )


@compiled
def _place_upwards(finishes, place, step, request):
    while place > 0:
        parent = (place - 1) >> 1
        if finishes[parent].step <= step:
            break
        finishes[place].step = finishes[parent].step
        finishes[place].request = finishes[parent].request
        place = parent
    finishes[place].step = step
    finishes[place].request = request


@compiled
def _drop_stale(sim):
    """Rebuild the finish heap without the entries of preempted requests."""
    size = sim.server[0].finishes
    kept = 0
    for place in range(size):
        if finish_stands(sim, place):
            _place_upwards(
                sim.finishes, kept, sim.finishes[place].step, sim.finishes[place].request
            )
            kept += 1
    sim.server[0].finishes = kept


@compiled
def finish_push(sim, request, step):
    """Record the step after which a decoding request is done."""
    server = sim.server[0]
    if server.finishes == len(sim.finishes):
        _drop_stale(sim)
    _place_upwards(sim.finishes, server.finishes, step, request)
    server.finishes += 1


@compiled
def finish_pop(sim):
    """Drop the first entry of the finish heap."""
    server, finishes = sim.server[0], sim.finishes
    size = server.finishes - 1
    server.finishes = size
    step, request = finishes[size].step, finishes[size].request
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and finishes[child + 1].step < finishes[child].step:
            child += 1
        if finishes[child].step >= step:
            break
        finishes[place].step = finishes[child].step
        finishes[place].request = finishes[child].request
        place = child
    finishes[place].step = step
    finishes[place].request = request
