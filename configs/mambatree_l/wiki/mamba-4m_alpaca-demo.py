_base_ = "./mamba-4m-lora_alpaca-demo.py"
model = dict(backbone=dict(lora=None))
train_dataloader = None
train_cfg = None
optim_wrapper = None
param_scheduler = None
