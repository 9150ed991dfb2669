# The model as pretrained: python tools/test.py THIS, without a checkpoint. There is nothing to train.
_base_ = "./mamba-130m-lora_alpaca.py"
model = dict(backbone=dict(lora=None))
train_dataloader = None
train_cfg = None
optim_wrapper = None
param_scheduler = None
