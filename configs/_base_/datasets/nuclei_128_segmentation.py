# Nuclei (tree-ssm prepare-data nuclei) in 35 overlapping tiles of 128x128 for training and 4 for validation.
_base_ = "./segmentation_loaders.py"
metainfo = dict(classes=("background", "nucleus", "boundary"), palette=[(0, 0, 0), (31, 119, 180), (255, 127, 14)])
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        data_root="data/nuclei",
        img_suffix=".png",
        metainfo=metainfo,
        pipeline=[
            dict(type="ssm_train.LoadImage"),
            dict(type="ssm_train.LoadLabelMap"),
            dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
            dict(type="PackSegInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=4, num_workers=2, dataset=dict(data_root="data/nuclei", img_suffix=".png", metainfo=metainfo)
)
test_dataloader = val_dataloader
