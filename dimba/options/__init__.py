"""Every parameter declared once: key, type, bounds, default, flag, aliases, help, question. Standard library only."""
