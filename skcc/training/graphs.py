"""A training step as a CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_STEPS = 3  # run before the capture, as CUDA graphs demand


class GraphedStep:
    """A training step that is captured as a CUDA graph once, and then replayed.

    The first calls run eagerly, so that libraries choose their kernels and the optimizer allocates
    its state. All calls must have the same step, and arguments of the same shapes. The step is an
    argument of each call, since its owner holds this object: a reference back would be a cycle, and
    keep the memory of the graph until the garbage collector finds it.
    """

    def __init__(self):
        self._calls, self._graph = 0, None

    def __call__(
        self, step: Callable[..., dict[str, Tensor]], *inputs: Tensor
    ) -> dict[str, Tensor]:
        """Run the step."""
        self._calls += 1
        if self._calls <= WARM_UP_STEPS:
            return _run_on_side_stream(step, inputs)
        if self._graph is None:
            self._capture(step, inputs)
        for static, new in zip(self._inputs, inputs, strict=True):
            static.copy_(new)
        self._graph.replay()
        return {name: term.clone() for name, term in self._terms.items()}

    def _capture(self, step, inputs):
        self._inputs = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._terms = step(*self._inputs)
        except RuntimeError as error:
            # Ending a capture that ran out of memory raises an error that does not say so.
            cause = error.__context__
            if isinstance(cause, torch.OutOfMemoryError):
                raise torch.OutOfMemoryError(str(cause)) from error
            raise RuntimeError(
                f"this training step cannot be captured as a CUDA graph ({error}); wanted "
                "cuda_graphs=False"
            ) from error
        self._graph = graph


def _run_on_side_stream(step, inputs):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        terms = step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return terms
