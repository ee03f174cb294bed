"""Verbs that train to find something out: a learning rate, the spread over folds, equal bits."""
