_base_ = "./classification_runtime.py"

# An epoch takes seconds: a checkpoint after each would take as long.
default_hooks = dict(checkpoint=dict(interval=10))
