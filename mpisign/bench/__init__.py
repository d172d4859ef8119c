"""`mpisign bench`: what kernels, exchanges and their rivals cost on this machine, as tables and as HDF5."""
