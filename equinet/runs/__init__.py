"""What every long run needs: files that a crash leaves whole, a lock for its folder, and signals heard at the right moment."""
