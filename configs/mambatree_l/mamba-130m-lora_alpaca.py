# LoRA alone, without a tree. It has rank 8 and alpha 16 on x_proj, in_proj, out_proj and the embeddings.
_base_ = [
    "../_base_/models/mamba_130m.py",
    "../_base_/datasets/alpaca_2048.py",
    "../_base_/schedules/lora_1e.py",
    "../_base_/language_runtime.py",
]
model = dict(backbone=dict(tree_scale=0.0, lora=dict(r=8, alpha=16, dropout=0.0)))
