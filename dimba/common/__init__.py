"""Names, errors and units that every room shares. Standard library only."""
