# All weights of Mamba-1.4B are trained, with the tree and without adapters. The weights, their gradients and the two
# moments of AdamW are 22 GB in float32, which FSDP2 shards between the processes. An update has 16 rows with two
# processes: each has 2 iterations of 4 rows. With more processes auto_scale_lr raises the rate as the rows of an update
# grow. Schedules count iterations, so that 20 updates of warm-up are 40 of them.
#   tree-ssm dist-train mambatree_l/mambatree-l-1.4b_2xb4_alpaca 2
_base_ = "./mambatree-l-130m_alpaca.py"
model = dict(backbone=dict(path="state-spaces/mamba-1.4b-hf", lora=None))
sharding = dict(param_dtype="float32", reduce_dtype="float32", reshard_after_forward=True)
optim_wrapper = dict(optimizer=dict(fused=True), accumulative_counts=2, clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=16, enable=True)
param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=40)]
default_hooks = dict(samples=dict(count=0))  # one process alone would write them
