"""Linear maps of blocks of rows."""
