"""The compiled engine of the twin: vLLM V1's scheduler, advanced from event to event.

`state` lays out the arrays, `queues` the waiting and running orders, `lora_cache` which adapters
are loaded, `step_time` what one engine step costs, `schedule` what one step runs, `statistics`
what is measured, `advance` the loop. Everything here is numba; nothing here draws random numbers.
"""
