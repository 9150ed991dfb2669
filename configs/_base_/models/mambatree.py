model = dict(type="ImageClassifier", backbone=dict(type="tree_ssm.MambaTreeV"))
