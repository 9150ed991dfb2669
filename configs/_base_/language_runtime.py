_base_ = "./default_runtime.py"

default_hooks = dict(
    logger=dict(interval=10),
    curves=dict(interval=10),
    checkpoint=dict(save_best="perplexity", rule="less", max_keep_ckpts=1),
)
val_cfg = dict()
test_cfg = dict()
val_evaluator = dict(type="Perplexity")
test_evaluator = val_evaluator
