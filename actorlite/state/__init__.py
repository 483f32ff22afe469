"""Decisions as pure machines: events in, commands out; no loop, no clock, no I/O."""
