"""The live scheduler: from the queue to a snapshot, a decision, and actions."""
