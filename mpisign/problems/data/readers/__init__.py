"""Files of data: one reader a format. What can't be read is a UsageError that names the file and says what to do."""
