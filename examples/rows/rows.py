"""A recurrent network that reads an image line by line: an RNN, or an LSTM (Hochreiter and Schmidhuber, 1997)."""

from torch import nn


class Rows(nn.Module):
    """
    Args:
        cell: `rnn` or `lstm`.
        width: pixels of a line.
    """

    def __init__(self, num_classes, cell="lstm", width=28, hidden=64):
        super().__init__()
        self.reader = {"rnn": nn.RNN, "lstm": nn.LSTM}[cell](width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, images):  # [B, 1, lines, width]
        states, _ = self.reader(images.squeeze(1))
        return self.head(states[:, -1])
