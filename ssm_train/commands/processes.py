"""What dist-train and dist-test share: a command in several processes of this machine."""

import os
import sys


def start(command: str, processes: int, arguments: list[str]) -> None:
    """Run a command of ``tree-ssm`` in several processes under torchrun, and end this one with their status.

    Each process gets its share of the cores, unless OMP_NUM_THREADS is set. torchrun would give it one, whatever the
    machine has.

    Args:
        command: its name.
        processes: how many, on this machine.
        arguments: of the command, without ``--launcher``.

    Raises:
        SystemExit: some process failed, or a training was stopped; the status says which, see
            :func:`ssm_train.apis.torchrun.main`.
    """
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(-(-cores // processes)))
    # Imported here because it imports torch, which reads the number of threads.
    from ssm_train.apis import torchrun

    place = [
        f"--nnodes={os.environ.get('NNODES', '1')}",
        f"--node-rank={os.environ.get('NODE_RANK', '0')}",
        f"--master-addr={os.environ.get('MASTER_ADDR', '127.0.0.1')}",
        f"--master-port={os.environ.get('MASTER_PORT', '29500')}",
        f"--nproc-per-node={processes}",
    ]
    each = ["--module", "ssm_train.commands", command, *arguments, "--launcher", "pytorch"]
    if status := torchrun.main([*place, *each]):
        sys.exit(status)
