"""The position of a run. Only the loop advances it."""

from dataclasses import dataclass


@dataclass
class TrainState:
    """
    Attributes:
        step: number of finished steps.
        samples: number of samples seen, over all ranks.
    """

    step: int = 0
    samples: int = 0

    def advance(self, samples: int) -> None:
        """One more step of `samples` samples is finished."""
        self.step += 1
        self.samples += samples
