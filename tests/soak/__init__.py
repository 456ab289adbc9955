"""The order service under load while everything around it fails, for as long as one likes: `make soak`."""
