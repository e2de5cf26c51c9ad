"""Real vLLM servers: clients, processes, load generation, deployment and routing.

This package holds what touches a server that speaks vLLM's API. `maitre.twin.fitting` decides what
to measure and fits it; `maitre.placement` decides which server holds which adapter.
"""
