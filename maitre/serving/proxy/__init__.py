"""The proxy before vLLM servers: routes by adapter, and soft prompts as embeddings."""
