"""Measure a running vLLM server: send planned load, store one sample per request."""
