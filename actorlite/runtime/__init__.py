"""The runtime that every process has: it owns references and submits work."""
