"""What nerfstudio's viewer, evaluation and ``ns-render`` show of a model."""
