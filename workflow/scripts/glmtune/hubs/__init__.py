"""Downloads published models: which files a site has, and their verified contents."""
