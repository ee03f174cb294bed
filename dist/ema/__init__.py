"""Averages of weights and buffers: exponential moving averages (EMA), and stochastic weight averaging (SWA)."""
