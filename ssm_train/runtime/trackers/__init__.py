"""Where scalars and pictures of a run go: files, TensorBoard, Weights & Biases."""
