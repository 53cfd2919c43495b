"""The images and attributes of a model that nerfstudio's viewer, evaluation and ``ns-render`` show."""
