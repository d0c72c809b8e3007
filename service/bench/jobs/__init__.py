"""`ul-serve bench-jobs`: what the queue, its worker and its stores add, and what they hold."""
