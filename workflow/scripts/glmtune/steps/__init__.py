"""What each script runs, from folders to folders."""
