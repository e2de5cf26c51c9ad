"""Models as MLflow serves them: source files that `mlflow.pyfunc` loads, so nothing is pickled."""
