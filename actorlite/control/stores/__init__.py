"""Where control keeps its state: one contract, several providers."""
