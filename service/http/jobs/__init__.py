"""The routes of /jobs."""
