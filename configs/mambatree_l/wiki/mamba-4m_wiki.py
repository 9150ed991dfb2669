# A small Mamba is trained from random weights on a text file. With a vocabulary of 4,096 a megabyte of English has
# 300,000 tokens. After twelve epochs the held-out perplexity had risen from 460 to 1,404, so the training has five.
# Commands:
#   tree-ssm train-tokenizer work_dirs/wiki/tokenizer data/text/wiki_demo.txt
#   tree-ssm train mambatree_l/wiki/mamba-4m_wiki
#   tree-ssm merge-adapters mambatree_l/wiki/mamba-4m_wiki CKPT work_dirs/wiki/pretrained
_base_ = "../../_base_/language_runtime.py"
tokenizer_path = "work_dirs/wiki/tokenizer"
tokenizer = dict(type="tree_ssm.language.load_tokenizer", path=tokenizer_path)
model = dict(
    type="LanguageModel",
    backbone=dict(
        type="tree_ssm.language.create_network", tokenizer=tokenizer_path, hidden_size=256, num_hidden_layers=8
    ),
)
blocks = dict(type="TextBlocks", path="data/text/wiki_demo.txt", tokenizer=tokenizer, length=512)
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="ssm_train.pad_rows"),
    dataset=dict(part="train", **blocks),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="ssm_train.pad_rows"),
    dataset=dict(part="held_out", **blocks),
)
test_dataloader = val_dataloader
max_epochs, warmup = 5, 1
optim_wrapper = dict(
    type="GuardedOptimWrapper",
    constructor="TimmOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.1),
    clip_grad=dict(max_norm=1.0),
    dtype="bfloat16",
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, begin=0, end=warmup, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-1, begin=warmup, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type="ResumableEpochLoop", max_epochs=max_epochs, val_interval=1)
