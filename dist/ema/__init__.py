"""The exponential moving average (EMA) of weights and buffers."""
