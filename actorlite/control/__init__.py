"""The leader: names, detached actors, and where that is kept."""
