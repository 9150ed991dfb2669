# The pretrained model without adapters. There is nothing to train. Run `tree-ssm test` on this config without a
# checkpoint.
_base_ = "./mamba-130m-lora_alpaca.py"
model = dict(backbone=dict(lora=None))
train_dataloader = None
train_cfg = None
optim_wrapper = None
param_scheduler = None
