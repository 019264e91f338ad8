"""Files, formats, rows and pairs: what a row is, on both sides of the container wall."""
