"""Trains and compares every combination of a grid, or a study: tree-ssm ablate CONFIG --grid KEY=A,B,C.

    tree-ssm ablate quadmamba/quadmamba-nano_digits \\
        --grid model.backbone.quadtree_levels=0,1,2 --grid seed=0,1,2

In place of a config it takes the file of a study, which lists what is compared instead of all combinations
(docs/study.md): tree-ssm ablate studies/fashion-mnist.yaml --at-once 15.

Each combination is a run of tree-ssm train in a folder of its own. Given again, the command keeps the runs that are
done and goes on with those that were stopped. A run that fails is named in the table, and the others go on, unless the
first two fail with the same error. The work folder has the table as table.md, table.csv and table.json, written anew
after every run. The data have to be there before: tree-ssm prepare-data --help.
"""

import argparse
from pathlib import Path

from ssm_train.apis import arguments as kinds


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm ablate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="the config that all runs share, or the file of a study (.yaml)")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=A,B,C",
        help="values of a config's key, combined with those of every other --grid; seed stands for randomness.seed",
    )  # fmt: skip
    parser.add_argument(
        "--work-dir", type=Path, help="where the runs go (default: work_dirs/ablate_CONFIG or work_dirs/study_FILE)"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config of all runs"
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, see tree-ssm train")
    parser.add_argument("--compile", action="store_true", help="torch.compile, see tree-ssm train")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--processes", type=kinds.whole_number(), default=1, metavar="N",
                       help="start each run by tree-ssm dist-train in N processes")  # fmt: skip
    where.add_argument("--at-once", type=kinds.whole_number(), metavar="N",
                       help="N runs at a time, in N processes, each of which goes from run to run (default: one run "
                       "at a time, each in a process of its own)")  # fmt: skip
    where.add_argument("--partition", help="submit all runs at once to this Slurm partition, by tree-ssm slurm-train")
    args = parser.parse_args(arguments)
    if is_study(args.config) == bool(args.grid):
        parser.error("a config needs a --grid, and the file of a study takes none")
    return args


def is_study(name: str) -> bool:
    """Whether a command line names the file of a study rather than a config."""
    return name.endswith((".yaml", ".yml"))


def main(arguments: list[str] | None = None) -> None:
    """Run the grid and print the table."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    if is_study(args.config):
        from ssm_train.runtime.config_files import find_study

        find_study(args.config)
        from ssm_train.apis.study import StudySettings as Settings
    else:
        from ssm_train.runtime.early_check import check_early

        check_early(args.config, args.cfg_options)
        from ssm_train.apis.sweep_runs import SweepSettings as Settings
    from ssm_train.apis.sweep_runs import LOG, Launch, Sweep

    settings = Settings(args.config, tuple(args.grid), tuple(args.cfg_options), args.work_dir, args.amp, args.compile)
    sweep = Sweep(settings, Launch(args.processes, args.partition, args.at_once))
    count = len(sweep.outcomes)
    print(f"{count} runs in {sweep.folder}; each one's output is in its {LOG}", flush=True)
    for number, outcome in enumerate(sweep.run(), start=1):
        print(f"[{number}/{count}] {sweep.describe(outcome)}", flush=True)
    print(f"\n{sweep.table()}")
    if lines := sweep.warnings():
        print("\n".join(lines))
    sweep.check()
