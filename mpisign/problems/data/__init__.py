"""Rows: read from files, dealt to the voters, and handed to a device batch by batch; and data sets to fetch."""
