# Two blocks in each of the first three stages, where nano has one or two. What differs between the blocks of a stage
# can then be studied.
_base_ = "../_base_/fashion_mnist_20k.py"
model = dict(backbone=dict(type="quadtree_ssm.QuadMamba", arch="nano", depths=(2, 2, 2, 1)))
