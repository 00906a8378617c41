"""A small real Slurm on loopback, as root: munge, slurmctld and two slurmd on one machine, each with a port of its own.

`python tests/engines/slurm.py start FOLDER` prints the SLURM_CONF to use, `stop FOLDER` ends what was started.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PORTS = {"slurmctld": 0, "n1": 0, "n2": 0}
CONFIG = """
ClusterName=sdvar
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdTimeout=60
MinJobAge=30
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
DAEMONS = "/usr/sbin:/usr/local/sbin:/sbin"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def find(name: str) -> str:
    """A daemon's path, also where sbin is not on PATH."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{DAEMONS}")
    if path is None:
        raise SystemExit(f"there is no {name}; install slurm-wlm and munge")
    return path


def start(folder: Path) -> Path:
    """Start everything in an empty folder and wait until both nodes are idle; the slurm.conf."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    conf.write_text(CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], **ports))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    munged = [
        find("munged"),
        "--foreground",
        "--force",
        f"--key-file={key}",
        f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/munge.seed",
    ]
    spawn(folder, "munged", munged, environment)
    wait_for(lambda: (folder / "munge.socket").exists(), "munge", folder)
    spawn(folder, "slurmctld", [find("slurmctld"), "-D", "-c", "-f", str(conf)], environment)
    for node in ("n1", "n2"):
        (folder / f"spool-{node}").mkdir()
        spawn(folder, f"slurmd-{node}", [find("slurmd"), "-D", "-N", node, "-f", str(conf)], environment)
    wait_for(lambda: states(conf) == ["idle", "idle"], "two idle nodes", folder)
    return conf


def spawn(folder: Path, name: str, command: list[str], environment: dict[str, str]) -> None:
    """Start a daemon in the foreground, in a session of its own; its number is kept in a file."""
    with open(folder / f"{name}.out", "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    (folder / f"{name}.started").write_text(str(process.pid))


def states(conf: Path) -> list[str]:
    """State of each node."""
    done = slurm(conf, "sinfo", "--noheader", "--Node", "--format=%t", check=False)
    return done.split()


def slurm(conf: Path, *command: str, check: bool = True) -> str:
    """Output of a command of this Slurm."""
    done = subprocess.run(command, env={**os.environ, "SLURM_CONF": str(conf)}, capture_output=True, text=True, check=check)
    return done.stdout


def wait_for(true: object, what: str, folder: Path, seconds: float = 60) -> None:
    """Wait until a condition holds; with the logs' ends where it never does."""
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            tails = [f"{p.name}: {p.read_text(errors='replace')[-600:]}" for p in sorted(folder.glob("*.out"))]
            raise SystemExit(f"no {what} after {seconds:.0f} s\n" + "\n".join(tails))
        time.sleep(0.2)


def stop(folder: Path) -> None:
    """Cancel all jobs and end what was started here, by its numbers."""
    conf = folder / "slurm.conf"
    if conf.exists():
        slurm(conf, "scancel", "--user=root", "--full", check=False)
        time.sleep(0.5)
    for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged"):
        path = folder / f"{name}.started"
        if not path.exists():
            continue
        pid = int(path.read_text())
        for number in (signal.SIGTERM, signal.SIGKILL):
            if gone(pid, 5 if number == signal.SIGKILL else 0):
                break
            os.kill(pid, number)
            if gone(pid, 5):
                break
        path.unlink()


def gone(pid: int, seconds: float) -> bool:
    """Whether a process ended within a time; it is waited for if it is a child."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        except ChildProcessError:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "start":
        print(f"export SLURM_CONF={start(Path(sys.argv[2]).resolve())}")
    else:
        stop(Path(sys.argv[2]).resolve())
