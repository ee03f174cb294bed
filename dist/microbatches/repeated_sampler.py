"""A stream in which each step has every one of its samples several times: repeated augmentation.

Hoffer et al., Augment Your Batch, CVPR 2020 (arXiv:1901.09335); Berman et al., MultiGrain, 2019 (arXiv:1902.05509), as DeiT and
timm's recipes use it. Like the plain stream it is a pure function of seed and position.
"""

from dataclasses import dataclass

import numpy

from phalanx.dist.microbatches.sampler import Draw, Stream


@dataclass(frozen=True)
class RepeatedStream(Stream):
    """The endless stream of samples of an experiment, of `global_batch / repeats` different ones in a step.

    The copies of a sample are as far from each other within the step as can be, so that they lie in different micro-batches,
    whose BatchNorm statistics they would otherwise narrow. An epoch, in which every sample occurs `repeats` times, has
    `repeats` times as many draws.

    Attributes:
        repeats: copies of each sample; divides the global batch.
    """

    repeats: int = 1

    def draws(self, start: int, stop: int) -> list[Draw]:
        """The samples at positions `start` to `stop`, which may span steps and epochs."""
        steps, places = numpy.divmod(numpy.arange(start, stop, dtype=numpy.int64), self.global_batch)
        different = self.global_batch // self.repeats
        copies, within = numpy.divmod(places, different)
        epochs, of_epoch = numpy.divmod(steps * different + within, self.samples)
        found = numpy.empty_like(of_epoch)
        for epoch in numpy.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self.order(int(epoch), of_epoch[chosen].astype(numpy.uint64))
        return [Draw(*numbers) for numbers in zip(epochs.tolist(), found.tolist(), copies.tolist(), strict=True)]
