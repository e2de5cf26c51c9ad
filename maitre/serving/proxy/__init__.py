"""The proxy in front of vLLM servers: it routes by adapter and embeds soft prompts."""
