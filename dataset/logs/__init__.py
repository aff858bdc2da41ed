"""Raw interaction logs: read them, convert them into dataset folders, and export such folders as logs."""
