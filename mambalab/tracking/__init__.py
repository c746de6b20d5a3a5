"""Recording a run: its folder is the truth, MLflow mirrors it."""
