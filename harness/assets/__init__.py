"""Assets that several methods share: learned once from the training split, keyed and measured as tasks of their own."""
