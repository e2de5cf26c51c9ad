"""Measures the prompt bank and tuning: `python -m benchmarks bank steps|shared|starts`."""
