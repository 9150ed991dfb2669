"""A real Slurm of two nodes on this machine, for tests. It needs Debian's slurm-wlm and munge, and root."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from mmengine.hooks import Hook

from ssm_core.errors import DataError

PROGRAMS = ("slurmctld", "slurmd", "munged", "munge", "srun", "sbatch", "scontrol")
PORTS = 20  # of a cluster: three are its own, and job number N listens at port N
CONFIG = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={first_job}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
KillWait=30
SlurmdTimeout=10
JobRequeue=1
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cores} Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def missing():
    """Say why no cluster can be started here; an empty text if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started by root"


class Cluster:
    """Two nodes with two counted GPUs each, which have no device: CUDA sees none.

    No other cluster on this machine has jobs of the same numbers, from which a training takes its port.
    """

    def __init__(self, folder):
        self.folder = folder
        self.daemons = {}

    def start(self):
        host, port = socket.gethostname().split(".")[0], free_ports()
        (self.folder / "state").mkdir(parents=True)
        text = CONFIG.format(host=host, port=port, first=port + 1, last=port + 2, first_job=port + 3,
                             folder=self.folder, cores=os.cpu_count())  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        paths = [f"--{name}={self.folder}/munge.{name.split('-')[0]}" for name in ("pid-file", "log-file", "seed-file")]
        munge = ["munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", f"--key-file={key}"]
        self._start("munged", *munge, *paths)
        wait_until((self.folder / "munge.socket").exists, "munge does not start")
        self._start("slurmctld", "slurmctld", "-D")
        for node in ("n1", "n2"):
            (self.folder / f"spool-{node}").mkdir()
            self._start(node, "slurmd", "-D", "-N", node)
        wait_until(lambda: self.run("sinfo", "-h", "-o", "%T %D") == "idle 2", f"no idle nodes; see {self.folder}")

    def stop(self):
        # scancel would only ask; the nodes' own processes end with what they run.
        self.run("scancel", "--signal=KILL", "--full", "--user=root")
        self.run("scancel", "--user=root")
        for process in reversed(self.daemons.values()):
            process.terminate()
        for process in self.daemons.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:  # it waits for a step that does not end
                process.kill()

    @property
    def environment(self):
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command, **environment):
        """Run a program of Slurm, or one that uses it. Return what it prints."""
        command = [str(word) for word in command]
        done = subprocess.run(command, capture_output=True, text=True, env={**self.environment, **environment})
        return (done.stdout + done.stderr).strip()

    def state(self, job):
        """The state of a job, such as ``RUNNING``, and its exit status."""
        words = dict(w.split("=", 1) for w in self.run("scontrol", "-o", "show", "job", job).split() if "=" in w)
        return words.get("JobState"), int(words.get("ExitCode", "0:0").split(":")[0])

    def has_processes(self, job):
        """Whether processes of a job run, those of Slurm that watch them included."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
            except OSError:  # it has just ended
                continue
            is_watcher = command.startswith(f"slurmstepd: [{job}.".encode())
            if is_watcher or f"SLURM_JOB_ID={job}".encode() in environment.split(b"\0"):
                return True
        return False

    def report(self, job):
        """What Slurm knows about a job, and the last lines of its daemons."""
        logs = {name: (self.folder / f"{name}.log").read_text().splitlines()[-20:] for name in self.daemons}
        lines = [f"{name}: {line}" for name, log in logs.items() for line in log]
        return "\n".join([self.run("scontrol", "show", "job", job), *lines])

    def _start(self, name, *command):
        log = (self.folder / f"{name}.log").open("w")
        self.daemons[name] = subprocess.Popen(
            command, stdout=log, stderr=log, env=self.environment, start_new_session=True
        )


@contextlib.contextmanager
def running(folder):
    """Start a cluster whose files are in the folder, and stop it in the end."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def free_ports():
    """The first of a cluster's ports, at which nobody listens."""
    for port in range(20000 + os.getpid() * PORTS % 9000, 30000 - PORTS, PORTS):
        with contextlib.suppress(OSError):
            for number in range(port, port + PORTS):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", number))
            return port
    raise OSError("no free ports")


def wait_until(condition, otherwise):
    end = time.monotonic() + 300  # only where something is wrong, as other work may slow the machine
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.2)


class PauseHook(Hook):
    """Waits within an iteration until a file ``go`` exists. A file ``waits_RANK`` then has the process's number.

    The process whose rank is in ``go`` fails.
    """

    def __init__(self, folder, iteration):
        self.folder, self.iteration = Path(folder), iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            (self.folder / f"waits_{runner.rank}").write_text(str(os.getpid()))
            wait_until((self.folder / "go").exists, "there is no go")
            if (self.folder / "go").read_text() == str(runner.rank):
                raise DataError("this process fails")
