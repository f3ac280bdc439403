"""The keys of a configuration in typed groups: what each is, its default and its limits."""
