# The same images as those of quadmamba-nano_digits.py, in shards of WebDataset. To make them:
#   tree-ssm prepare-data digits --images
#   tree-ssm prepare-data shards --from data/digits --per-shard 500
_base_ = "./quadmamba-nano_digits.py"

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="WebDatasetImages",
        shards="data/digits-shards/train-{000000..000002}.tar",
        label="txt",
        mode="L",
        transform={{_base_.train_dataloader.dataset.transform}},
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="WebDatasetImages",
        shards="data/digits-shards/test-000000.tar",
        label="txt",
        mode="L",
        transform={{_base_.val_dataloader.dataset.transform}},
    )
)
test_dataloader = val_dataloader
