"""Stands where mpirun starts a rank: python -I -S tests/rank.py ADDRESS COMMAND; see preloaded.py, which listens there.

The rank itself is a copy of what listens, with this process's streams, environment, folder and line to MPI. Signals go
on to it, and what ends it ends this process too; it does not outlive this one.
"""

import json
import os
import signal
import socket
import sys

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
LINE = "PMI_FD"  # names the socket by which MPICH's launcher speaks with a rank


def main(address: str, *command: str) -> None:
    if LINE not in os.environ:
        os.execv(command[0], command)  # of another MPI
    with socket.socket(socket.AF_UNIX) as listener:
        listener.connect(f"\0{address}")
        told = json.dumps([command, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(listener, [len(told).to_bytes(4)], [0, 1, 2, int(os.environ[LINE])])
        listener.sendall(told)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: listener.send(bytes([number])))
        status = int.from_bytes(listener.recv(4))
    if os.WIFSIGNALED(status):
        if (number := os.WTERMSIG(status)) in PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
