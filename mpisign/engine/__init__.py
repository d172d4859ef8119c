"""One step of any algorithm: the Stepper that takes it, the factory that builds it, and what measures exchanges."""
