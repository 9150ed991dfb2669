"""Data: datasets, images, transforms, batches, and commands that prepare datasets. Nothing here knows a task."""
