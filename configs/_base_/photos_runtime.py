_base_ = "./classification_runtime.py"

# An epoch has 70 iterations. Validation is at every fifth epoch.
default_hooks = dict(logger=dict(interval=35), curves=dict(interval=35), checkpoint=dict(interval=10))
