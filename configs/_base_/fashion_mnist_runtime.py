_base_ = "./classification_runtime.py"

# An epoch takes seconds, and writing a checkpoint takes as long.
default_hooks = dict(checkpoint=dict(interval=10))
