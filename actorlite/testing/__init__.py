"""Public testing kit."""
