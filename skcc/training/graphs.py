"""A training step as a CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_STEPS = 3  # run before the capture, as CUDA graphs demand


class GraphedStep:
    """A training step that is captured as a CUDA graph once, and then replayed.

    The first calls run eagerly, so that libraries choose their kernels and the optimizer allocates
    its state. All calls must have arguments of the same shapes.
    """

    def __init__(self, step: Callable[..., dict[str, Tensor]]):
        self._step, self._calls, self._graph = step, 0, None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run the step."""
        self._calls += 1
        if self._calls <= WARM_UP_STEPS:
            return self._run_on_side_stream(inputs)
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._terms = self._step(*self._inputs)
        for static, new in zip(self._inputs, inputs, strict=True):
            static.copy_(new)
        self._graph.replay()
        return {name: term.clone() for name, term in self._terms.items()}

    def _run_on_side_stream(self, inputs):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            terms = self._step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return terms
