"""Maitre: tunes prompts on deadline and serves many LoRA adapters on the fewest GPUs."""
