"""A pretended CUDA device, for machines without one: tensors that say `cuda:0`, are computed on the CPU, and obey CUDA's rules.

`install.install()` changes torch for the rest of the process. From then on:

- a CPU tensor with dimensions beside one on the device is refused, as is a generator of the other device, `.numpy()`, and what
  deterministic mode forbids (`rules`);
- autocast has CUDA's lists (`autocast`), and kernels that only CUDA has are there (`kernels`);
- copies to the host that do not block arrive when an event or stream is waited for; before, the host sees garbage (`streams`);
- what one stream reads or writes before it has waited for another, and memory given back while a stream may still read it, is a
  fault in the ledger (`memory`);
- what waits for the device is counted in the ledger, with file and line (`ledger`, `waits`).

It shows nothing about speed, about rounding, or about a driver; numbers are the CPU's.
"""
