"""An interpreter for tests, which runs programs in forks of a process that has imported what they need.

A program has the command line, the environment, the folder, the files, the signals and the exit status of any other. It
shares the imports alone, which take most of the time of a short one. Do not use it where these are what is tested.
"""

import atexit
import contextlib
import json
import logging
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import sys
import traceback
import weakref
from pathlib import Path

import torch

IMPORTED = ("transformers", "peft", "tree_ssm.language", "ssm_train.tasks.language.task", "torch.distributed.run")
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(request).to_bytes(8, "little")], [0, 1, 2])
connection.sendall(request)
process = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "little")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: os.kill(process, number))
status = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "little", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def write(folder):
    """Write the interpreter into a folder. Return its path and the address that :func:`serve` takes."""
    path, address = Path(folder) / "python", str(Path(folder) / "socket")
    path.write_text(CLIENT.format(python=sys.executable, address=address))
    path.chmod(0o755)
    return path, address


def serve(path, address):
    """Run the programs that the interpreter ``path`` is given, until this process is killed."""
    for name in IMPORTED:
        __import__(name)
    sys.executable = str(path)
    signal.signal(signal.SIGCHLD, _reap)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os._exit(_attend(connection))
        connection.close()


def _reap(*_):
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _attend(connection):
    """Run one program in a process of its own, and tell its exit status. If the interpreter is killed, kill it, too."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    arguments, folder, environment = json.loads(connection.recv(int.from_bytes(size, "little"), socket.MSG_WAITALL))
    process = os.fork()
    if process == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        _forget_exit_functions()
        _run(arguments)
    for file in files:
        os.close(file)
    connection.sendall(process.to_bytes(8, "little"))
    ended = os.pidfd_open(process)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    connection.sendall(status.to_bytes(8, "little", signed=True))
    return 0


def _forget_exit_functions():
    """Keep what imports have made, such as a folder for pictures of wandb's. It is of all programs: none may remove it.

    What a program makes itself is removed when it ends.
    """
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):
        finalizer.detach()
    weakref.finalize._registered_with_atexit = False
    for function in (logging.shutdown, multiprocessing.util._exit_function):
        atexit.register(function)


def _run(arguments):
    """Do what Python does with ``-u``, ``-m MODULE`` or a file, and its arguments, and end the process."""
    # The first call after a fork makes torch's pool of threads anew. Autograd's threads make it, too, and all at once,
    # which can end the process.
    torch.set_num_threads(torch.get_num_threads())
    status = 0
    while arguments[0] == "-u":
        arguments = arguments[1:]
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0:0] = arguments[1:], [os.getcwd()]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0:0] = arguments, [str(Path(arguments[0]).parent)]
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
