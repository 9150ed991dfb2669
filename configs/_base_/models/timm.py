# Any model of timm, as a control; leaf configs name it.
model = dict(type="ImageClassifier", backbone=dict(type="timm"))
