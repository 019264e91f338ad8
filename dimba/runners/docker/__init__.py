"""Everything that talks to the Docker engine; the only importer of its SDK."""
