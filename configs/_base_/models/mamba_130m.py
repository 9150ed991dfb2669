model = dict(
    type="LanguageModel",
    backbone=dict(
        type="tree_ssm.language.load_network", path="state-spaces/mamba-130m-hf", gradient_checkpointing=True
    ),
)
