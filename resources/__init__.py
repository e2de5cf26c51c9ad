"""Dagster resources: the language model, the stores, MLflow tracking, the request queue.

What belongs here: whatever talks to a file system, a database or a server, wrapped as a
`ConfigurableResource` with typed methods. What does not: decisions, which are `maitre`'s.
"""
