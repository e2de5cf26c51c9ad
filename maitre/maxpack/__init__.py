"""The capacity model: features, trace design, the learned model of what a server sustains."""
