"""Parameters for several micro-batches whose forwards run in turns: the same weights, with gradients of their own."""

from collections.abc import Sequence

from torch import nn


class Replicas:
    """Replicas of a model's trained parameters. The first one is the model's own.

    A replica has the storage of the parameter, so that an update of one is an update of all. The modules use one of them at a
    time.
    """

    def __init__(self, model: nn.Module, count: int):
        trained = {id(p): p for p in model.parameters() if p.requires_grad}
        self._all = [[p, *(nn.Parameter(p.detach()) for _ in range(1, count))] for p in trained.values()]
        of = dict(zip(trained, self._all, strict=True))
        self._places = [
            (module._parameters, name, of[id(p)])
            for module in model.modules()
            for name, p in module._parameters.items()
            if p is not None and id(p) in of
        ]
        self._of, self._in_use, self.count = of, 0, count

    def of(self, parameter: nn.Parameter) -> Sequence[nn.Parameter]:
        """The replicas of a trained parameter of the model, itself first."""
        return self._of[id(parameter)]

    def use(self, number: int) -> None:
        """The modules use this replica of each parameter from now on."""
        if number != self._in_use:
            self._in_use = number
            for parameters, name, replicas in self._places:
                parameters[name] = replicas[number]

    def follow(self) -> None:
        """Gives the replicas the parameters' `requires_grad`, which the phases of a step change."""
        for first, *others in self._all:
            for replica in others:
                replica.requires_grad_(first.requires_grad)

    def discard(self) -> None:
        """Frees the gradients of all but the first."""
        for _, *others in self._all:
            for replica in others:
                replica.grad = None
