"""What production runs Keyway with: image, services around it, and how they are looked after."""
