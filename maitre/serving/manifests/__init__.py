"""A plan as Kubernetes manifests, and as the objects of vLLM operators."""
