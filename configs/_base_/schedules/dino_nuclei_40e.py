# The 40 epochs of nuclei_40e.py with DINO's clipped gradients. The backbone starts from random weights, so its rate is
# that of the rest.
_base_ = "./nuclei_40e.py"
optim_wrapper = dict(clip_grad=dict(max_norm=0.1))
