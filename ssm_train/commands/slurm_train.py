"""Submits a training to Slurm as a batch job that saves itself before its time ends and resumes itself.

    [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=10] [SBATCH_ARGS="..."] [SRUN_ARGS="..."] \\
        tree-ssm slurm-train PARTITION CONFIG

There is one process a GPU. GRES= (empty) asks for no GPU, and trains GPUS processes on CPUs. SECONDS_TO_SAVE (120) is
how long before the end of its time the job is told to save.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from ssm_core.errors import ConfigError
from ssm_train.commands import train

JOB = Path(__file__).with_name("slurm_job.sh")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ``rest`` is for each process."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm slurm-train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("partition", help="of Slurm")
    parser.add_argument("config", help="config file, or the name of one that comes with the package")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="arguments of tree-ssm train")
    args = parser.parse_args(arguments)
    given = train.parse_arguments([args.config, *args.rest])
    for switch in ("resume", "or-begin", "overwrite", "fresh"):
        if getattr(given, switch.replace("-", "_")):
            parser.error(
                f"a job resumes itself and takes no --{switch}: name another --work-dir for a new run, or copy the "
                "checkpoint to go on from into the work folder"
            )
    return args


def submission(partition: str, config: str, rest: list[str]) -> list[str]:
    """The command that submits a training.

    Args:
        partition: of Slurm.
        config: the config.
        rest: the other arguments of ``tree-ssm train``.
    """
    setting = os.environ.get
    gpus = setting("GPUS", "8")
    per_node = str(min(_count("GPUS", gpus), _count("GPUS_PER_NODE", setting("GPUS_PER_NODE", "8"))))
    gres = setting("GRES", f"gpu:{per_node}")
    return [
        "sbatch", "--partition", partition, "--job-name", Path(config).stem, "--ntasks", gpus,
        "--ntasks-per-node", per_node, *(["--gres", gres] if gres else []),
        "--cpus-per-task", setting("CPUS_PER_TASK", "10"), "--requeue", "--open-mode", "append",
        "--signal", f"USR1@{setting('SECONDS_TO_SAVE', '120')}", *shlex.split(setting("SBATCH_ARGS", "")),
        str(JOB), config, *rest,
    ]  # fmt: skip


def _count(name: str, text: str) -> int:
    if not text.isdigit():
        raise ConfigError(f"{name} is a whole number, not {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    """Submit the job. Slurm's own variables SBATCH_... work, too."""
    args = parse_arguments(arguments)
    command = submission(args.partition, args.config, args.rest)
    os.environ.setdefault("PYTHON", sys.executable)  # of the nodes, too: the environment that this program is in
    try:
        os.execvp(command[0], command)
    except FileNotFoundError as error:
        raise ConfigError("there is no sbatch on this machine: submit from one where Slurm is installed") from error
