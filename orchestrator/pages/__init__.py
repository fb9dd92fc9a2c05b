"""What people look at: the report of a run, and pictures of its data and of its weights."""
