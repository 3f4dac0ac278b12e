"""Several processes under jax.distributed: `examples/multi_process.py` on CPUs."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import support

ROOT = pathlib.Path(__file__).parents[2]
# Appended: the package under test is the installed one.
sys.path.append(str(ROOT))

PROCESSES, DEVICES, PER_DEVICE = 2, 2, 3  # devices of each process
SECONDS = 300  # after which what hangs is killed


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _run() -> list[tuple[int, str]]:
    """Exit status and output of every process; those that hang are killed."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(support.PACKAGE_PARENT), str(ROOT)]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES} "
        "--xla_llvm_disable_expensive_passes=true",
    }
    port = _free_port()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "examples.multi_process"),
                *("--coordinator", f"localhost:{port}", "--per-device", str(PER_DEVICE)),
                *("--processes", str(PROCESSES), "--process", str(i)),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(PROCESSES)
    ]
    killer = threading.Timer(SECONDS, lambda: [process.kill() for process in processes])
    killer.start()
    try:
        outputs = [process.communicate()[0] for process in processes]
    finally:
        killer.cancel()
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs)]


def test_two_processes_are_as_one():
    from examples import data_parallel

    results = _run()
    if any("already in use" in output for _, output in results):  # another has taken the port
        results = _run()
    size = PROCESSES * DEVICES * PER_DEVICE
    with jax.default_matmul_precision("highest"):
        expected = data_parallel.mean_loss(
            data_parallel.make_params(), data_parallel.make_batch(0, size)
        )
    for i, (status, output) in enumerate(results):
        assert status == 0, output
        assert f"process {i} of {PROCESSES}: {DEVICES} of {PROCESSES * DEVICES} x" in output
        losses = re.findall(r"^\w+: loss (\S+), .* communication: all-reduce$", output, re.M)
        np.testing.assert_allclose(np.array(losses, float), [expected] * 2, rtol=1e-5)
        assert "loss and gradients agree" in output
