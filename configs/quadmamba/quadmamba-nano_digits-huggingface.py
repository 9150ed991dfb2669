# The same images as those of quadmamba-nano_digits.py, in a dataset of Hugging Face. To make it:
#   tree-ssm prepare-data digits --images
#   tree-ssm prepare-data huggingface --from data/digits
_base_ = "./quadmamba-nano_digits.py"

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="HuggingFaceImages",
        path="data/digits-huggingface",
        split="train",
        mode="L",
        transform={{_base_.train_dataloader.dataset.transform}},
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="HuggingFaceImages",
        path="data/digits-huggingface",
        split="test",
        mode="L",
        transform={{_base_.val_dataloader.dataset.transform}},
    )
)
test_dataloader = val_dataloader
