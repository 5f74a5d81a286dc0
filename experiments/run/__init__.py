"""What every experiment shares: its command line, its run, its folder, its tables and pictures."""
