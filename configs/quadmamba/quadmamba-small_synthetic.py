# Measures the speed of training: 100 iterations on noise in bfloat16. tools/benchmarks/distributed.py runs it.
_base_ = [
    "../_base_/models/quadmamba.py",
    "../_base_/datasets/synthetic_224.py",
    "../_base_/schedules/synthetic_100i.py",
    "../_base_/classification_runtime.py",
]
model = dict(backbone=dict(arch="small"), label_smoothing=0.1)
