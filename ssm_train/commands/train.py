"""Trains the model of a config: tree-ssm train CONFIG."""

import argparse

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm train", description="Train the model of a config.", allow_abbrev=False
    )
    parser.add_argument("config", help="config file, such as configs/quadmamba/quadmamba-nano_digits.py")
    parser.add_argument("--work-dir", help="where checkpoints and logs go (default: work_dirs/NAME_OF_THE_CONFIG)")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config: train_cfg.max_epochs=5"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", nargs="?", const=True, default=False, metavar="CKPT",
        help="continue from a checkpoint; without a value, from the newest good one in the work folder",
    )  # fmt: skip
    again.add_argument("--overwrite", action="store_true", help="delete checkpoints in the work folder and begin anew")
    again.add_argument("--fresh", action="store_true", help="keep the run in the work folder, train in run_2 within it")
    parser.add_argument(
        "--or-begin", action="store_true",
        help="with --resume: begin without a warning if there is nothing to continue; for commands that are given "
        "again and again",
    )  # fmt: skip
    parser.add_argument(
        "--keep-updates", action="store_true",
        help="with --resume: another number of processes, or other processes, batch size and accumulation of the same "
        "product; the samples of each update stay the same",
    )  # fmt: skip
    parser.add_argument(
        "--new-schedule", action="store_true",
        help="with --resume: follow the schedule of the config from here on where that of the run differs",
    )  # fmt: skip
    parser.add_argument("--amp", action="store_true", help="mixed precision: bfloat16, unless the config says float16")
    parser.add_argument("--compile", action="store_true", help="torch.compile: faster steps after a slow first one")
    parser.add_argument(
        "--time-iterations", type=kinds.whole_number(), nargs="?", const=100, default=0, metavar="N",
        help="print where the time of N iterations goes, and what bounds the training, after the first 20 (default: "
        "100)",
    )  # fmt: skip
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="set by dist-train and slurm-train; give it yourself under torchrun alone",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train and print the final figures."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    if args.launcher == "none":  # of several processes, the first one tells of these
        from ssm_train.runtime.early_places import check_data, check_work_folder

        if not (args.resume or args.overwrite or args.fresh):
            check_work_folder(args.config, args.cfg_options, args.work_dir)
        check_data(args.config, args.cfg_options, ("train_dataloader", "val_dataloader"))
    from ssm_train.runtime.config import run_config

    cfg = run_config(args.config, args.cfg_options, args.work_dir, args.launcher, args.amp, args.compile)
    from ssm_train.apis.train import train  # after the config, since it takes as long again

    result = train(
        cfg, args.resume, overwrite=args.overwrite, fresh=args.fresh, or_begin=args.or_begin,
        keep_updates=args.keep_updates, new_schedule=args.new_schedule, time_iterations=args.time_iterations,
    )  # fmt: skip
    cli.say(result.describe(cfg))
