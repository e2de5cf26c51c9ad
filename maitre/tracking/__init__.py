"""MLflow: what a run records, registered models, and the champion of each."""
