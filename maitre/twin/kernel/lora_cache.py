"""Which adapters are in GPU slots and in CPU memory: least recently used goes first.

vLLM touches every adapter of the batch at every step, so an adapter in use is never evicted and
its place in the order is the moment it was last in a batch. Both lists are rings through a
sentinel row; only idle adapters are linked in.
"""

from maitre.twin.kernel.compiled import compiled
from maitre.twin.kernel.state import (
    CPU_COUNT,
    GPU_COUNT,
    LOAD_TIME,
    LOADS_CPU,
    LOADS_GPU,
)


@compiled
def _unlink(next_, previous, row):  # type: ignore[no-untyped-def]
    if next_[row] >= 0:
        next_[previous[row]] = next_[row]
        previous[next_[row]] = previous[row]
        next_[row] = previous[row] = -1


@compiled
def _link_newest(next_, previous, row):  # type: ignore[no-untyped-def]
    sentinel = len(next_) - 1
    newest = previous[sentinel]
    next_[newest] = row
    previous[row] = newest
    next_[row] = sentinel
    previous[sentinel] = row


@compiled
def activate(state, limits, adapter):  # type: ignore[no-untyped-def]
    """An adapter joins the batch; returns the seconds that loading it stalls the step."""
    a, whole = state.adapters, state.whole
    sentinel = len(a.gpu_next) - 1
    _unlink(a.gpu_next, a.gpu_previous, adapter)
    _unlink(a.cpu_next, a.cpu_previous, adapter)
    if a.on_gpu[adapter]:
        return 0.0
    load_ms = a.load_gpu_ms[adapter]
    whole[LOADS_GPU] += 1
    if not a.on_cpu[adapter]:
        if whole[CPU_COUNT] >= limits.max_cpu_loras:
            victim = a.cpu_next[sentinel]
            _unlink(a.cpu_next, a.cpu_previous, victim)
            a.on_cpu[victim] = 0
            whole[CPU_COUNT] -= 1
        load_ms += a.load_cpu_ms[adapter]
        whole[LOADS_CPU] += 1
        whole[CPU_COUNT] += 1
        a.on_cpu[adapter] = 1
    if whole[GPU_COUNT] >= limits.max_loras:
        victim = a.gpu_next[sentinel]
        _unlink(a.gpu_next, a.gpu_previous, victim)
        a.on_gpu[victim] = 0
        whole[GPU_COUNT] -= 1
    a.on_gpu[adapter] = 1
    whole[GPU_COUNT] += 1
    state.real[LOAD_TIME] += load_ms * 1e-3
    return load_ms * 1e-3


@compiled
def deactivate(state, adapter):  # type: ignore[no-untyped-def]
    """The last request of an adapter left the batch: it is now the most recently used."""
    a = state.adapters
    _link_newest(a.gpu_next, a.gpu_previous, adapter)
    _link_newest(a.cpu_next, a.cpu_previous, adapter)
