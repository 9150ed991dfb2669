# UPerNet with narrow heads, for small images and few classes.
_base_ = "./upernet.py"
model = dict(
    decode_head=dict(channels=128, num_classes=11),
    auxiliary_head=dict(channels=64, num_classes=11),
)
