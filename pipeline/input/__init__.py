"""Where photos come from: the sources that a command names, and the bytes in them."""
