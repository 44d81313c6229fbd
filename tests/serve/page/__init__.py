"""The page in a browser; a package, so that its browser and servers end with it."""
