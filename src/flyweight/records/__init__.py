"""What is measured and what a run came to, as files hold it."""
