"""The experiments of notebooks 5 and 6, the saved runs that notebooks show, and `make results`."""
