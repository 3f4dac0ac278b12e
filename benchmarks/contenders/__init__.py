"""What is compared: losses, ways from a joint network to its loss, and figures of others."""
