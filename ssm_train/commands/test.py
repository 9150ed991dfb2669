"""Evaluates a checkpoint on the test set of a config: tree-ssm test CONFIG CKPT."""

import argparse

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tree-ssm test", description="Evaluate a checkpoint.", allow_abbrev=False)
    parser.add_argument("config", help="the config it was trained with")
    parser.add_argument(
        "checkpoint", nargs="?", help="a checkpoint of tree-ssm train, convert or publish; not needed if the config "
        "names pretrained weights (model.backbone.path), or if weights of this config come with the package",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="PLACE", help="write the predictions: a .csv or .json file of a classifier's scores, a .json "
        "file of a detector's objects in the form of COCO's results, or a folder of a segmentor's label maps",
    )  # fmt: skip
    parser.add_argument("--work-dir", help="where the log goes (default: work_dirs/NAME_OF_THE_CONFIG)")
    kinds.add_ways_of_prediction(parser)
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="see dist_test.sh")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Test and print the metrics."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    from ssm_train.apis.prediction import prediction_config
    from ssm_train.apis.train import test
    from ssm_train.runtime.config import run_config

    cfg = run_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    metrics = test(prediction_config(cfg, args.tta, args.tile, args.overlap), args.checkpoint, args.out)
    # COCO's precisions go from 0 to 1, all others are percentages.
    cli.say(", ".join(f"{name} {value:.{4 if abs(value) <= 1 else 2}f}" for name, value in metrics.items()))
