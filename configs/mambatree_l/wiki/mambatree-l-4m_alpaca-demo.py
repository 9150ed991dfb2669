_base_ = "./mamba-4m-lora_alpaca-demo.py"
model = dict(backbone=dict(tree_scale=0.3))
