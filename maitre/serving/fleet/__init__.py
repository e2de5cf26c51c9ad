"""vLLM servers on this machine: start them, load adapters, follow a plan."""
