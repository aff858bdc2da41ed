"""A package, so that no installed one named `dataset` is imported in its place."""
