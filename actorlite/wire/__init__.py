"""What travels: typed messages, framing and user values. Pure: bytes in, values out."""
