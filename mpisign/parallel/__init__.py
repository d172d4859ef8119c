"""Ranks: MPI, launchers, devices and memory, and how the end of one rank reaches all others."""
