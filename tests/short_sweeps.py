"""Sweeps and studies of runs that take a moment."""

from command_line import CONFIGS

DIGITS = CONFIGS / "resnet" / "resnet18_digits.py"
SHORT = ["model.backbone.name=test_efficientnet_gn", "train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=2"]
SHORT += ["visualizer.tensorboard=False", "default_hooks.curves.plot=False", "default_hooks.pictures.count=0"]
SHORT += ["val_dataloader.num_batch_per_epoch=1"]
STUDY = """
seeds: [0, 1]
tables:
  sizes:
    config: {config}
    cells:
      "four": {{train_dataloader.batch_size: 4}}
      "eight": {{train_dataloader.batch_size: 8}}
"""


def write_study(folder):
    """Write a study of four runs into a folder, and return its path."""
    path = folder / "sizes.yaml"
    path.write_text(STUDY.format(config=DIGITS))
    return path
