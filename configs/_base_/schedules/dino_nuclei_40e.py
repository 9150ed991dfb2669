# The 40 epochs of nuclei_40e.py with DINO's clipped gradients.
_base_ = "./nuclei_40e.py"
optim_wrapper = dict(clip_grad=dict(max_norm=0.1))
