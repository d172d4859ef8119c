"""One step of any algorithm: the exchanges and the Stepper that takes it, put together."""
