"""Training methods, one file per paper; the registry finds them, and no other code imports them."""
