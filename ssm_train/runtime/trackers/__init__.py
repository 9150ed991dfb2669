"""Recording the scalars and pictures of a run: in files, TensorBoard and Weights & Biases."""
