"""Adapters to servers: catalogue, algorithms, bounds, the plan and its diff."""
