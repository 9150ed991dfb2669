"""Reading data: datasets, images, transforms, batches, and making datasets. Nothing here knows a task."""
