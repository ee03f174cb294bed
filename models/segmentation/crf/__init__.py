"""The dense CRF and the lattice that it filters on."""
