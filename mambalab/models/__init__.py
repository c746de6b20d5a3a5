"""Models: layers, dropout, backbone, heads."""
