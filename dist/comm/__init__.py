"""Communication between ranks: how they meet, process groups, small messages."""
