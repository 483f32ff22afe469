"""One connection between two processes: handshake, requests, replies, descriptors."""
