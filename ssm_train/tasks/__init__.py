"""The four tasks: image classification, detection, segmentation and language. Tasks do not import each other."""
