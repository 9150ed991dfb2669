# The composited set (tree-ssm prepare-data composite) has 48,000 images of 256x256 for training and 500 for validation.
# Sizes, rotations and colours already vary in the images, so training only mirrors them. A short trial learned faster
# that way.
_base_ = "./segmentation_loaders.py"
metainfo = dict(
    classes=(
        "background", "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
    palette=[
        (0, 0, 0), (63, 144, 218), (255, 169, 14), (189, 31, 1), (148, 164, 162), (131, 45, 182), (169, 107, 89),
        (231, 99, 0), (185, 172, 112), (113, 117, 129), (146, 218, 221),
    ],
)  # fmt: skip
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    pin_memory=True,
    dataset=dict(
        data_root="data/composite",
        metainfo=metainfo,
        pipeline=[
            dict(type="ssm_train.LoadImage"),
            dict(type="ssm_train.LoadLabelMap"),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs"),
        ],
    ),
)
# 20 divides 500, so all batches have the same size and a network is compiled only once.
val_dataloader = dict(batch_size=20, num_workers=4, dataset=dict(data_root="data/composite", metainfo=metainfo))
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type="ssm_train.LoadImage"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in (0.75, 1.0, 1.25)],
            [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
            [dict(type="ssm_train.LoadLabelMap")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
