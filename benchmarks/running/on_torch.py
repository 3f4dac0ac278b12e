"""Contenders in PyTorch: tensors, calls, and what its allocator says."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.measuring import timing
from benchmarks.problems.shapes import Case


class Framework:
    def __init__(self, loss: Callable, dtype: str):
        self.loss, self.dtype = loss, getattr(torch, dtype)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def describe(self) -> dict:
        gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "platform": "gpu" if gpu else "cpu",
            "versions": {"torch": torch.__version__},
        }

    def prepare(self, case: Case) -> "Problem":
        return Problem(self, case)

    def gradient(self, logits: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Costs (N,), and the gradient of their sum, both float32."""
        rows = torch.from_numpy(logits).to(self.device, self.dtype).requires_grad_()
        costs = self.loss(rows, *self.tensors(case))
        (gradient,) = torch.autograd.grad(costs.sum(), rows)
        return costs.detach().float().cpu().numpy(), gradient.float().cpu().numpy()

    def tensors(self, case: Case) -> list[torch.Tensor]:
        return [torch.from_numpy(array).to(self.device) for array in case.arrays()]

    def healthy(self) -> bool:
        try:
            torch.cuda.empty_cache()
            return bool(torch.ones(2, device=self.device).sum() == 2)
        except Exception:
            return False


class Problem:
    """A case's tensors on the device and the calls on them."""

    def __init__(self, framework: Framework, case: Case):
        self._loss, self._device = framework.loss, framework.device
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        platform = "gpu" if self._device.type == "cuda" else "cpu"
        sets = timing.count_inputs(case.elements * framework.dtype.itemsize, platform)
        torch.manual_seed(0)
        rest = framework.tensors(case)
        settings = {"device": self._device, "dtype": framework.dtype, "requires_grad": True}
        shape = case.N, case.T, case.U, case.V
        self.inputs = [(torch.randn(shape, **settings), *rest) for _ in range(sets)]

    def both(self, i: int) -> torch.Tensor:
        logits, *rest = self.inputs[i % len(self.inputs)]
        return torch.autograd.grad(self._loss(logits, *rest).sum(), logits)[0]

    def wait(self, results) -> None:
        del results
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def analyse(self) -> dict:
        """Peak memory beyond the inputs during one call of forward and backward."""
        if self._device.type != "cuda":
            return {}
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.both(0)
        torch.cuda.synchronize()
        return {"beyond_logits_bytes": torch.cuda.max_memory_allocated() - before}
