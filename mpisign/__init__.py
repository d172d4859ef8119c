"""mpisign: training with sign-based distributed optimisation over MPI."""

__version__ = "0.1.0"
