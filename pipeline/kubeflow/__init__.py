"""The pipeline on Kubeflow: compiled, run in containers, scheduled."""
