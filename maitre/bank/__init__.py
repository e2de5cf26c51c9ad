"""The prompt bank: past prompts, their two-layer index, the lookup of a start for a new task."""
