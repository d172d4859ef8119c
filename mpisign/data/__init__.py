"""Data sets on disk: fetched where there is a network, looked at before a job relies on them."""
