_base_ = [
    "../_base_/models/fashion_mnist.py",
    "../_base_/datasets/fashion_mnist_64.py",
    "../_base_/schedules/fashion_mnist_90e.py",
    "../_base_/fashion_mnist_runtime.py",
]
model = dict(backbone=dict(type="tree_ssm.MambaTreeV", arch="nano"))
