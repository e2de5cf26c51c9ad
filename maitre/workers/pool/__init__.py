"""Warm pools: the workers that hold a base model, as processes here or pods on Kubernetes."""
