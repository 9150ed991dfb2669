# A classifier for the crops of photographs. A leaf config adds the backbone.
model = dict(type="ImageClassifier", backbone=dict(num_classes=15), label_smoothing=0.1)
