"""Tuning: tasks, base models, soft prompts and LoRA adapters.

Import from the submodules; this package imports none of them (torch is heavy).
"""
