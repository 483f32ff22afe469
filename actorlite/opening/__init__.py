"""How sessions come to be: one module for each kind of address, loaded when the first such session is opened."""
