"""Models as MLflow serves them: source files that `mlflow.pyfunc` loads; nothing is pickled."""
