"""What a training method is: base objectives, class policies, and how a name is resolved to them."""
