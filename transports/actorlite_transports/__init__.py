"""The shipped transports. They import nothing of actorlite but the seam, the errors and the framing."""
