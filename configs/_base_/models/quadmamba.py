model = dict(type="ImageClassifier", backbone=dict(type="quadtree_ssm.QuadMamba"))
