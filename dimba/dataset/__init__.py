"""Files, formats, rows and pairs of data, for both sides of the container wall."""
