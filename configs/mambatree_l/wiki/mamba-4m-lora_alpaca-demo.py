# The recipe of mamba-130m-lora_alpaca.py at the size of a demonstration. It takes the small model of mamba-4m_wiki.py,
# six epochs, and a rate that suits the adapters of such a narrow model. Every tenth row is held out.
_base_ = "../mamba-130m-lora_alpaca.py"
model = dict(backbone=dict(path="work_dirs/wiki/pretrained", gradient_checkpointing=False))
tokenizer = dict(type="tree_ssm.language.load_tokenizer", path="work_dirs/wiki/pretrained")
rows = dict(path="data/text/alpaca_en_demo.json", tokenizer=tokenizer, max_length=512, held_out_every=10)
train_dataloader = dict(batch_size=16, dataset=rows)
val_dataloader = dict(batch_size=16, dataset=rows)
test_dataloader = val_dataloader
optim_wrapper = dict(accumulative_counts=1, optimizer=dict(lr=1e-3))
param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20)]
train_cfg = dict(max_epochs=6)
