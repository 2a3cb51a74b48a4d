"""Training methods: base objectives, class policies, and the resolution of a name to them."""
