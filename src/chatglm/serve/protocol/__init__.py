"""The bodies of requests; a field that is not listed is refused by name."""
