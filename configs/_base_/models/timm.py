# Any model of timm can serve as a control. A leaf config names it.
model = dict(type="ImageClassifier", backbone=dict(type="timm"))
