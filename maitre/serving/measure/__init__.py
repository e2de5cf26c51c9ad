"""Measure a running vLLM server: planned load, one row per request, samples for the twin."""
