"""Dagster plug-ins: run launcher, run coordinator, and the GraphQL client."""
