# A classifier for Fashion-MNIST. A leaf config adds the backbone.
model = dict(
    type="ImageClassifier",
    backbone=dict(in_chans=1, num_classes=10),
    label_smoothing=0.1,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    mix_prob=0.3,
)
