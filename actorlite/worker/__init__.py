"""A worker: it hosts actors and runs tasks, in a process of its own or in the caller's loop."""
