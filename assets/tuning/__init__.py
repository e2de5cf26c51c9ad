"""Assets of the tuning half: tasks, the prompt bank, tuned prompts."""
