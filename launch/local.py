"""One machine, several processes that train as one: each gets its share of the devices.

    python launch/local.py --processes 2 -- train --config mome_pretrain --workdir RUN ...

What follows `--` is a `latentum` command that takes --coordinator. With --cpu-devices N every
process has N virtual CPU devices instead, to try a mesh without the hardware. Where one process
ends in an error or is killed, the others are ended too; the exit status is the first not 0.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time


def main() -> int:
    """Starts the processes and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--cpu-devices", type=int, default=0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    port = free_port()
    running = [start(args, command, port, process) for process in range(args.processes)]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: [one.send_signal(number) for one in running])
    try:
        return wait(running)
    finally:
        for process in running:
            process.kill()


def start(
    args: argparse.Namespace, command: list[str], port: int, process: int
) -> subprocess.Popen:
    """One of the processes."""
    own = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(args.processes)]
    env = dict(os.environ)
    if args.cpu_devices:
        env["JAX_PLATFORMS"] = "cpu"
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.cpu_devices}"
    elif "JAX_LOCAL_DEVICE_IDS" not in env:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus(args.processes, process))
    program = [sys.executable, "-m", "latentum_jax.cli", *command, *own, "--process", str(process)]
    return subprocess.Popen(program, env=env)


def gpus(processes: int, process: int) -> list[str]:
    """The share of one process of the GPUs that are visible."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        listed = ",".join(str(i) for i in range(len(found.stdout.splitlines())))
    every = listed.split(",")
    share = len(every) // processes
    return every[process * share : (process + 1) * share]


def wait(running: list[subprocess.Popen]) -> int:
    """Until all are done or one has failed."""
    while True:
        codes = [process.poll() for process in running]
        failed = [code for code in codes if code not in (None, 0)]
        if failed:
            asked = failed[0] in (128 + signal.SIGTERM, 128 + signal.SIGINT)
            give_time(running, 60 if asked else 2)  # to save, or for what they have to say
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if None not in codes:
            return 0
        time.sleep(0.1)


def give_time(running: list[subprocess.Popen], seconds: int) -> None:
    """Waits until all have ended, but not longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in running):
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
