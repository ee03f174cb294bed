"""Reading YAML and JSON strictly, with the place of every value."""
