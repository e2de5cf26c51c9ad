"""Which adapters are in GPU slots and in CPU memory: least recently used goes first.

vLLM touches every adapter of the batch at every step, so an adapter in use is never evicted and
its place in the order is the moment it was last in a batch. Both orders are rings through a
sentinel row, oldest first; only idle adapters are linked in.
"""

from maitre.twin.kernel.compiled import compiled


@compiled
def _unlink_gpu(adapters, row):
    if adapters[row].gpu_next >= 0:
        adapters[adapters[row].gpu_previous].gpu_next = adapters[row].gpu_next
        adapters[adapters[row].gpu_next].gpu_previous = adapters[row].gpu_previous
        adapters[row].gpu_next = -1
        adapters[row].gpu_previous = -1


@compiled
def _unlink_cpu(adapters, row):
    if adapters[row].cpu_next >= 0:
        adapters[adapters[row].cpu_previous].cpu_next = adapters[row].cpu_next
        adapters[adapters[row].cpu_next].cpu_previous = adapters[row].cpu_previous
        adapters[row].cpu_next = -1
        adapters[row].cpu_previous = -1


@compiled
def activate(sim, limits, adapter):
    """Add an adapter to the batch; return the seconds that loading it stalls the step."""
    adapters, server = sim.adapters, sim.server[0]
    sentinel = len(adapters) - 1
    _unlink_gpu(adapters, adapter)
    _unlink_cpu(adapters, adapter)
    if adapters[adapter].on_gpu:
        return 0.0
    load_ms = adapters[adapter].gpu_load_ms
    server.gpu_loads += 1
    if not adapters[adapter].on_cpu:
        if server.on_cpu >= limits.max_cpu_loras:
            victim = adapters[sentinel].cpu_next
            _unlink_cpu(adapters, victim)
            adapters[victim].on_cpu = 0
            server.on_cpu -= 1
        load_ms += adapters[adapter].cpu_load_ms
        server.cpu_loads += 1
        server.on_cpu += 1
        adapters[adapter].on_cpu = 1
    if server.on_gpu >= limits.max_loras:
        victim = adapters[sentinel].gpu_next
        _unlink_gpu(adapters, victim)
        adapters[victim].on_gpu = 0
        server.on_gpu -= 1
    adapters[adapter].on_gpu = 1
    server.on_gpu += 1
    server.load_s += load_ms * 1e-3
    return load_ms * 1e-3


@compiled
def deactivate(sim, adapter):
    """Remove an adapter without requests from the batch: it is now the most recently used."""
    adapters = sim.adapters
    sentinel = len(adapters) - 1
    newest = adapters[sentinel].gpu_previous
    adapters[newest].gpu_next = adapter
    adapters[adapter].gpu_previous = newest
    adapters[adapter].gpu_next = sentinel
    adapters[sentinel].gpu_previous = adapter
    newest = adapters[sentinel].cpu_previous
    adapters[newest].cpu_next = adapter
    adapters[adapter].cpu_previous = newest
    adapters[adapter].cpu_next = sentinel
    adapters[sentinel].cpu_previous = adapter
