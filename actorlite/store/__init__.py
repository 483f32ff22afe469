"""Large values: a segment of memory that all processes of a node map, and what does not fit into it."""
