"""Finding images over HTTP: a Ray Serve application over one index generation."""
