_base_ = "./classification_runtime.py"

# An epoch has 44 iterations.
default_hooks = dict(logger=dict(interval=22), curves=dict(interval=11))
