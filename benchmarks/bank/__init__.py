"""Measures the prompt bank and tuning."""
